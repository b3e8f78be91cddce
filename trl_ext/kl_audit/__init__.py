"""Audit KL estimators: bias and variance of value and gradient, exactly on a small language and sampled from a run."""
