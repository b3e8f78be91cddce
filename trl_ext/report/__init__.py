"""Report a run: metrics file, training curves, summary tables, model card."""
