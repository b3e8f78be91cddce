"""What online preference training refuses before a run."""

from typing import Any

from trl_ext.trainers.online.config import OnlinePreferenceConfig
from trl_ext.trainers.rollout import checks


def refuse(args: Any, model: Any, sources: list, given: dict[str, Any]) -> None:
    """TypeError for another configuration, ValueError for settings that cannot work; no weights are loaded yet."""
    if not isinstance(args, OnlinePreferenceConfig):
        raise TypeError(f"OnlinePreferenceTrainer takes an OnlinePreferenceConfig, not a {type(args).__name__}.")
    checks.refuse(args, model, sources, given)
