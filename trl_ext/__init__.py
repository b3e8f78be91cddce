"""Preference losses on one 4-bit base and one GPU: recipes, trainers and a command line on top of TRL."""

from importlib import import_module
from typing import Any

from trl_ext.support import quiet

__version__ = "0.1.0"

# Name -> module. Loaded on first use: the trainers take seconds to import, `trl-ext --help` must not.
_LAZY = {
    "losses": "trl_ext.losses",
    "GRPOConfig": "trl_ext.trainers",
    "GRPOTrainer": "trl_ext.trainers",
    "OnlinePreferenceConfig": "trl_ext.trainers",
    "OnlinePreferenceTrainer": "trl_ext.trainers",
    "PairedPreferenceConfig": "trl_ext.trainers",
    "PairedPreferenceTrainer": "trl_ext.trainers",
    "PPOConfig": "trl_ext.trainers",
    "PPOTrainer": "trl_ext.trainers",
    "RLOOConfig": "trl_ext.trainers",
    "RLOOTrainer": "trl_ext.trainers",
    "RewardModelConfig": "trl_ext.trainers",
    "RewardModelTrainer": "trl_ext.trainers",
    "SupervisedConfig": "trl_ext.trainers",
    "SupervisedTrainer": "trl_ext.trainers",
    "UnpairedPreferenceConfig": "trl_ext.trainers",
    "UnpairedPreferenceTrainer": "trl_ext.trainers",
}

__all__ = ["__version__", *_LAZY]

quiet.hide_library_messages()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_LAZY[name])
    value = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
