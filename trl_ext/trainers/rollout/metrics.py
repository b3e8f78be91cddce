"""Sum the metrics of an optimizer step, then add one mean of each to TRL's history."""

from typing import Any

from accelerate import Accelerator

from trl_ext.trainers.common.metrics import MeanMetrics


class StepMetrics:
    """Metrics of the optimizer step in progress, by mode: `train` or `eval`.

    Args:
        accelerator: Reduces sums over processes.
        history: TRL's `_metrics`: by mode, the values of each metric since the last log.

    Attributes:
        sums: By mode, sums over the micro-batches so far.
    """

    def __init__(self, accelerator: Accelerator, history: dict[str, Any]) -> None:
        self.accelerator = accelerator
        self.history = history
        self.sums = {"train": MeanMetrics(), "eval": MeanMetrics()}

    def finish(self, mode: str) -> dict[str, float]:
        """Mean of each metric over the step and all processes; the sums of the next step start at zero."""
        means = self.sums[mode].reduce(self.accelerator).means()
        self.sums[mode] = MeanMetrics()
        return means

    def record(self, mode: str, means: dict[str, float]) -> None:
        """Add values to the history, whose mean is logged."""
        for name, value in means.items():
            self.history[mode][name].append(value)
