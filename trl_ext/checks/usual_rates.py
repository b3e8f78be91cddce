"""Usual learning rates of LoRA training, by loss or kind of training.

Sources: the recipes that come with trl-ext name theirs. For preference losses it is ten times the rate of full fine-tuning, as
TRL's guide to LoRA has it; for supervised fine-tuning TRL's LoRA guide (2e-4).

They hold at `lora_alpha: 32`, whatever the rank. LoRA divides by the rank, so the best rate then hardly depends on it ("LoRA
Without Regret", Schulman et al. 2025).
"""

import math
from typing import Any

from trl_ext.losses import LossInfo, MixInfo
from trl_ext.methods import Method

RANK, ALPHA = 16, 32
FULL = 0.1
"""Rate of full fine-tuning divided by that of LoRA."""
SPAN = 10
"""The largest usual rate divided by the smallest."""

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

TINY, OF_A_TINY_MODEL = 100e6, 5e-4
"""Parameters below which a model needs far larger steps, and the rate that was measured on the embedded model."""


def smallest(method: Method, loss: LossInfo | MixInfo | None) -> float:
    """The smallest usual rate of LoRA training at `lora_alpha: 32`; in a mix, that of the part with the smallest."""
    if method.name in OF_TRAINERS or loss is None:
        return OF_TRAINERS.get(method.name, OF_A_LOSS)
    parts = (
        [loss.name] if isinstance(loss, LossInfo) else [part.name for part in loss.components if part.name != "sft"]
    )
    return min((OF_LOSSES.get(name, OF_A_LOSS) for name in parts), default=OF_LOSSES["sft"])


def factor(alpha: float, rank: int, *, uses_rslora: Any) -> float:
    """What the rates are multiplied by for another alpha; rsLoRA divides alpha by √rank instead of by the rank."""
    return ALPHA / (alpha * (math.sqrt(rank) if uses_rslora else 1))
