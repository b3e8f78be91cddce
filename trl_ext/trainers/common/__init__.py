"""Share between all trainers: adapter dtype, non-finite steps, staged checkpoints, metrics, messages."""
