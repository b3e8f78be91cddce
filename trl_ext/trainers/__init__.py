"""Trainers: subclasses of TRL's that run any loss of `trl_ext.losses`, and PPO."""

from trl_ext.trainers.online.config import OnlinePreferenceConfig
from trl_ext.trainers.online.trainer import OnlinePreferenceTrainer
from trl_ext.trainers.ppo.config import PPOConfig
from trl_ext.trainers.ppo.trainer import PPOTrainer
from trl_ext.trainers.preference.config import PairedPreferenceConfig, UnpairedPreferenceConfig
from trl_ext.trainers.preference.paired import PairedPreferenceTrainer
from trl_ext.trainers.preference.unpaired import UnpairedPreferenceTrainer

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
