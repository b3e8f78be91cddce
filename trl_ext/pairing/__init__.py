"""Preference data that a model makes itself: sample completions, score them, choose pairs or labels, train, repeat."""
