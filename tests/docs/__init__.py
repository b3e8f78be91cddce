"""What the docs are generated from."""
