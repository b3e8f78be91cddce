"""Train by preference losses on pairs that the policy samples during training."""
