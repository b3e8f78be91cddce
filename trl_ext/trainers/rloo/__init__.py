"""Train a policy by RLOO, with the settings of TRL's RLOO trainer."""
