"""Compare the update of a rollout with TRL's own trainer."""
