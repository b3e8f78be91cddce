"""What every trainer uses: adapter dtype, finite steps, staged checkpoints, metrics, messages."""
