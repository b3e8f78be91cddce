"""Measure what training cost in abilities: tasks of lm-evaluation-harness for the base and the tuned model, in one process."""
