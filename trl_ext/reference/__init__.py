"""Compute reference log-probabilities from the base model with its adapter off, and keep them on disk."""
