"""How the examples of one optimizer step become forward passes."""
