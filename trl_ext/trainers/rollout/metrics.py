"""Sum the metrics of an optimizer step, then add one mean (or maximum) of each to TRL's history."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from trl_ext.trainers.common.metrics import MeanMetrics

OF_RLOO = ("kl", "frac_reward_zero_std")
"""Metrics of TRL that are dropped: a KL per token under a name that elsewhere means a sum, and a share of prompts that is
computed from RLOO's own rewards. An update may log its own under these names."""


@contextmanager
def without_those_of_rloo(history: dict[str, list[float]]) -> Iterator[None]:
    """Inside, what TRL adds to the history under the names of `OF_RLOO` is dropped, and what was there is kept."""
    own = {name: history.pop(name) for name in OF_RLOO if name in history}
    yield
    for name in OF_RLOO:
        history.pop(name, None)
    history.update(own)


class StepMetrics:
    """Metrics of the optimizer step in progress, by mode: `train` or `eval`.

    Args:
        accelerator: Reduces sums over processes.
        history: TRL's `_metrics`: by mode, the values of each metric since the last log.

    Attributes:
        sums: By mode, sums over the micro-batches so far.
        largest: Values (0-d) of this process, the largest of each name so far.
    """

    def __init__(self, accelerator: Accelerator, history: dict[str, Any]) -> None:
        self.accelerator = accelerator
        self.history = history
        self.sums = {"train": MeanMetrics(), "eval": MeanMetrics()}
        self.largest: dict[str, Tensor] = {}

    def keep_largest(self, values: dict[str, Tensor]) -> None:
        """Keep the larger of each value and the one of its name so far. Every process has to name the same ones."""
        for name, value in values.items():
            self.largest[name] = value.maximum(self.largest[name]) if name in self.largest else value

    def finish(self, mode: str) -> dict[str, float]:
        """Mean, or largest value, of each metric over the step and all processes; those of the next step start anew."""
        found = self.sums[mode].reduce(self.accelerator).means()
        self.sums[mode] = MeanMetrics()
        largest, self.largest = self.largest, {}
        return found | {name: self.accelerator.gather(value).max().item() for name, value in largest.items()}

    def record(self, mode: str, means: dict[str, float]) -> None:
        """Add values to the history, whose mean is logged."""
        for name, value in means.items():
            self.history[mode][name].append(value)


def count_step(trainer: Any, seconds: float) -> None:
    """Advance TRL's counters of micro-batches and of time per optimizer step, after a micro-batch."""
    trainer._step += 1
    trainer._current_train_step_time += seconds
    if trainer._step % trainer.current_gradient_accumulation_steps == 0:
        trainer._metrics["train"]["step_time"].append(trainer._current_train_step_time)
        trainer._current_train_step_time = 0.0
