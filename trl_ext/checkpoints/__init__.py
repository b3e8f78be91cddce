"""Checkpoints on disk: which are whole, how one is written so that it is, and what a resume may change.

Standard library and our own errors only, so that a run can be refused before anything heavy is loaded.
"""
