"""What trainers that sample completions share: generation, rewards, roles on one base, micro-batches, checkpoints."""
