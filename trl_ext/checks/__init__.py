"""What settings do together, judged by their values alone: for a recipe before torch is imported, and for a trainer.

Each rule reads `Values` and yields sentences: what was given, why it cannot work or does not do what it says, what to set
instead. `ppo` has PPO's, `online` those of losses on sampled pairs, `rewards` those of both; `sampling` tells whether what is
sampled is what is scored, `optimizers` which of them no step here can use.
"""
