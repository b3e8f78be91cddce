"""Share between trainers that sample completions: generation, rewards, roles on one base, micro-batches, checkpoints."""
