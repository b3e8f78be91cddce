"""Checkpoints on disk: find complete ones, write them atomically, and judge what a resume may change.

Only the standard library is imported, so that a run can be refused before anything heavy is loaded.
"""
