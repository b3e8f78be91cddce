"""Decide which of two answers to a prompt is better, and turn such verdicts into win rates and strengths."""
