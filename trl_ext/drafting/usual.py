"""Usual learning rates of LoRA training, by loss or kind of training.

Sources: the recipes that come with trl-ext name theirs. For preference losses it is ten times the rate of full fine-tuning, as
TRL's guide to LoRA has it; for supervised fine-tuning TRL's LoRA guide (2e-4).

`lora_alpha` is 32 whatever the rank. LoRA divides by the rank, so the best rate then hardly depends on it ("LoRA Without
Regret", Schulman et al. 2025).
"""

from __future__ import annotations

from typing import Any, NamedTuple

RANK, ALPHA = 16, 32
FULL = 0.1
"""Rate of full fine-tuning divided by that of LoRA."""

OF_A_LOSS = 5e-6
OF_LOSSES = {
    "simpo": 1e-5,
    "alphapo": 1e-5,
    "cpo": 1e-5,
    "orpo": 1e-5,
    "apo_zero": 1e-5,
    "apo_zero_unpaired": 1e-5,
    "sft": 1e-4,
}
"""Losses with another rate than `OF_A_LOSS`. Most have no reference, which would bound the change of the policy."""
OF_TRAINERS = {"sft": 2e-4, "reward": 1e-4, "ppo": 3e-5, "rloo": 3e-5, "grpo": 3e-5}
CRITIC = 3.0
"""Learning rate of PPO's critic divided by that of the policy (OpenRLHF)."""

TINY, OF_A_TINY_MODEL = 100e6, 5e-4
"""Parameters below which a model needs far larger steps, and the rate that was measured on the embedded model."""


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
    if recipe.method.name in OF_TRAINERS:
        value = OF_TRAINERS[recipe.method.name]
    else:
        parts = [recipe.loss] if isinstance(recipe.loss, str) else [name for name in recipe.loss if name != "sft"]
        value = min((OF_LOSSES.get(name, OF_A_LOSS) for name in parts), default=OF_LOSSES["sft"])
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
