"""Evaluate a model on held-out preferences and sampled completions, with confidence intervals."""
