"""Turn the examples of an optimizer step into forward passes: packed and padded rows, attention, memory."""
