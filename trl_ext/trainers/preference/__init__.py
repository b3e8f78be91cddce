"""Train preference losses on given data, paired or unpaired: an optimizer step is one batch, cut into packed rows."""
