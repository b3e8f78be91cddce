"""Audit KL estimators: exact values, estimates from sampled completions, and their picture."""
