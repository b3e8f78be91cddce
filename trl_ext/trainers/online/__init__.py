"""Preference losses on pairs the policy samples during training."""
