"""The implicit reference: the base model with its adapter switched off."""
