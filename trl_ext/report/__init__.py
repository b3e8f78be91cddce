"""What a run leaves for people to read: curves, tables, a model card."""
