"""Hold the output of a loss: values per example, which the trainer averages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class PairedOutput(NamedTuple):
    """Output of a loss on (chosen, rejected) pairs; every field has shape (B,).

    `losses` carries the gradient. `chosen_rewards` and `rejected_rewards` are detached and used only in metrics
    (accuracy is the share of pairs with chosen > rejected).
    """

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


class UnpairedOutput(NamedTuple):
    """Output of a loss on single completions labelled desirable or not; both fields have shape (B,).

    `losses` carries the gradient and is in the order of the examples; `rewards` is detached.
    """

    losses: Tensor
    rewards: Tensor
