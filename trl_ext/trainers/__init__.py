"""Preference trainers: subclasses of TRL's that run any loss of `trl_ext.losses`."""

from trl_ext.trainers.config import PairedPreferenceConfig, UnpairedPreferenceConfig
from trl_ext.trainers.paired import PairedPreferenceTrainer
from trl_ext.trainers.unpaired import UnpairedPreferenceTrainer

__all__ = [
    "PairedPreferenceConfig",
    "PairedPreferenceTrainer",
    "UnpairedPreferenceConfig",
    "UnpairedPreferenceTrainer",
]
