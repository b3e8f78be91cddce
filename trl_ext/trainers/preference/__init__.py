"""Preference losses on given data, paired and unpaired: one optimizer step is one batch, cut into packed rows."""
