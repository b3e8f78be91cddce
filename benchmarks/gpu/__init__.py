"""Every shipped recipe's training step on one GPU, held to 24 GB: `python -m benchmarks.gpu --help`."""
