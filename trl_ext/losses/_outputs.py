"""What a loss returns: per-example values, unreduced; the trainer averages them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class PairedOutput(NamedTuple):
    """Of a loss on (chosen, rejected) pairs; every field has shape (B,).

    `losses` carries the gradient. `chosen_rewards` and `rejected_rewards` are detached: they are for
    metrics (accuracy = how often chosen > rejected) and never enter the loss.
    """

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


class UnpairedOutput(NamedTuple):
    """Of a loss on single completions labelled desirable or not; both fields have shape (B,).

    `losses` carries the gradient and keeps the order of the examples; `rewards` is detached.
    """

    losses: Tensor
    rewards: Tensor
