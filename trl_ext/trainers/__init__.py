"""Trainers: subclasses of TRL's that run any loss of `trl_ext.losses`, PPO, RLOO, GRPO, supervised fine-tuning and reward models.

A name is imported on first use, so that modules below this package can be imported without loading TRL.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "GRPOConfig": "grpo.config",
    "GRPOTrainer": "grpo.trainer",
    "OnlinePreferenceConfig": "online.config",
    "OnlinePreferenceTrainer": "online.trainer",
    "PPOConfig": "ppo.config",
    "PPOTrainer": "ppo.trainer",
    "PairedPreferenceConfig": "preference.config",
    "PairedPreferenceTrainer": "preference.paired",
    "RLOOConfig": "rloo.config",
    "RLOOTrainer": "rloo.trainer",
    "RewardModelConfig": "sft_and_reward",
    "RewardModelTrainer": "sft_and_reward",
    "SupervisedConfig": "sft_and_reward",
    "SupervisedTrainer": "sft_and_reward",
    "UnpairedPreferenceConfig": "preference.config",
    "UnpairedPreferenceTrainer": "preference.unpaired",
}
"""Public name and the module that defines it."""

__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
