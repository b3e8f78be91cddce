"""From a run to a model that other programs load: merged into 16-bit weights, checked, described."""
