"""Train a policy by GRPO, with the settings of TRL's GRPO trainer."""
