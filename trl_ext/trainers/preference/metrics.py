"""Reduce a step's metrics over processes and keep their means for TRL's next log."""

import math
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator

from trl_ext.trainers.common import step_zero
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.preference.objective import Objective


class StepMetrics:
    """Turn the sums of a step into logged means.

    Args:
        accelerator: The trainer's.
        history: TRL's lists of means since the last log, by mode and name.
        objective: Derives further metrics.
        check: Checks the first step, given its mean loss and the mean distance of policy and reference (or `None`).

    Attributes:
        trained_tokens: Tokens of all training steps, over all processes.
        is_first_step: Whether no training step has finished yet.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        history: dict[str, dict[str, list[Any]]],
        objective: Objective,
        check: Callable[[float, float | None], None],
    ) -> None:
        self.accelerator = accelerator
        self.history = history
        self.objective = objective
        self.check = check
        self.trained_tokens = 0
        self.is_first_step = True

    def finish(self, sums: MeanMetrics, mode: str) -> float:
        """Reduce a step's sums over processes, keep its means for the next log, and return its mean loss."""
        means = sums.reduce(self.accelerator).means()
        loss, apart = means.pop("loss"), means.pop(step_zero.APART, None)
        if mode == "train" and not math.isfinite(loss):
            return loss  # handled by `trl_ext.trainers.common.nonfinite`; its metrics are meaningless
        if mode == "train" and self.is_first_step:
            self.is_first_step = False
            self.check(loss, apart)
        self.keep(sums, means, mode)
        coefficient = self.objective.router_aux_loss_coef
        return loss + (0.0 if coefficient is None else coefficient * means["aux_loss"])

    def keep_evaluation(self, sums: MeanMetrics) -> None:
        """Keep the means of an evaluation for its log. Its loss is logged by transformers."""
        means = sums.means()
        means.pop("loss")
        means.pop(step_zero.APART, None)
        self.keep(sums, means, "eval")

    def keep(self, sums: MeanMetrics, means: dict[str, float], mode: str) -> None:
        """Add means to the history of `mode`. `num_tokens` is a running total."""
        history = self.history[mode]
        if mode == "train":
            self.trained_tokens += int(sums.total("num_tokens"))
        history.pop("num_tokens", None)
        of_loss = self.objective.state.metrics() if mode == "train" else {}
        derived = {"num_tokens": self.trained_tokens} | self.objective.derived(means) | of_loss
        for name, value in (means | derived).items():
            history[name].append(value)

    def resume(self, trained_tokens: int) -> None:
        """Continue the count of a checkpoint."""
        self.trained_tokens = trained_tokens
