"""Trainers: subclasses of TRL's that run any loss of `trl_ext.losses`, and PPO."""

from trl_ext.trainers.config import PairedPreferenceConfig, UnpairedPreferenceConfig
from trl_ext.trainers.online import OnlinePreferenceTrainer
from trl_ext.trainers.online_config import OnlinePreferenceConfig
from trl_ext.trainers.paired import PairedPreferenceTrainer
from trl_ext.trainers.ppo import PPOTrainer
from trl_ext.trainers.ppo_config import PPOConfig
from trl_ext.trainers.unpaired import UnpairedPreferenceTrainer

__all__ = [
    "OnlinePreferenceConfig",
    "OnlinePreferenceTrainer",
    "PPOConfig",
    "PPOTrainer",
    "PairedPreferenceConfig",
    "PairedPreferenceTrainer",
    "UnpairedPreferenceConfig",
    "UnpairedPreferenceTrainer",
]
