"""Token counts of real preference pairs, without the pairs: what a step takes depends on nothing else of the data."""
