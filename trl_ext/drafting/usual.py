"""Usual learning rates for a draft, from those of LoRA training (`trl_ext.checks.usual_rates`)."""

from __future__ import annotations

from typing import Any, NamedTuple

from trl_ext.checks.usual_rates import ALPHA, FULL, OF_A_TINY_MODEL, RANK, TINY, smallest

__all__ = ["ALPHA", "CRITIC", "RANK", "Rate", "rate", "trains_adapter"]

CRITIC = 3.0
"""Learning rate of PPO's critic divided by that of the policy (OpenRLHF)."""


class Rate(NamedTuple):
    """A learning rate, and a comment on where it comes from."""

    value: float
    why: str


def rate(recipe: Any, parameters: int) -> Rate:
    """The usual learning rate of what a recipe trains.

    Args:
        recipe: A `trl_ext.recipe.Recipe`.
        parameters: Parameters of the model.
    """
    trains = recipe.title if recipe.method.has_loss else recipe.method.title
    value = smallest(recipe.method, recipe.info if recipe.method.has_loss else None)
    if parameters < TINY:
        return Rate(max(value, OF_A_TINY_MODEL), "as measured on the embedded model; larger models need less")
    if not trains_adapter(recipe):
        return Rate(value * FULL, f"usual for {trains} when all weights are trained")
    return Rate(value, f"usual for {trains} with LoRA at alpha {ALPHA}")


def trains_adapter(recipe: Any) -> bool:
    """Whether an adapter is trained: a new one, or one that is continued."""
    from pathlib import Path

    from trl_ext.model_files import adapter

    return bool(recipe.get("use_peft")) or adapter.is_in(Path(recipe.get("model_name_or_path")).expanduser())
