"""Say how much time a search has left, and whether another trial or the rest of one fits into it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

RECENT = 5
"""Trials whose measured times an estimate is made of; the slowest one counts."""
REPORT = 5.0
"""Seconds that are kept for writing the result, or as many as a trial needs before its first step: a slow machine draws slowly."""


class Cost(NamedTuple):
    """The measured seconds of a trial, or of what was carried out of it.

    Attributes:
        loss: Its loss.
        setup: Before its first step: data, model, trainer, reference log-probabilities.
        step: Per optimizer step.
        rung: Per measurement on the way; `None` if there was none.
        final: Of the measurement at its end; `None` if it did not get there.
    """

    loss: str
    setup: float
    step: float
    rung: float | None = None
    final: float | None = None


def predict(costs: Sequence[Cost], loss: str, steps: int, rungs: int) -> float:
    """Seconds of a whole trial: of each part the slowest of the last trials, those of the same loss if there are any.

    Args:
        costs: Of earlier trials, in order.
        loss: Of the trial.
        steps: Of the trial.
        rungs: Measurements on the way.
    """
    if not costs:
        return 0.0
    of_loss = [cost for cost in costs if cost.loss == loss] or costs
    slowest = max(cost.step for cost in of_loss[-RECENT:])
    setup = max(cost.setup for cost in of_loss[-RECENT:])
    return setup + steps * slowest + rungs * _slowest(costs, "rung") + _slowest(costs, "final")


def _slowest(costs: Sequence[Cost], name: str) -> float:
    known = [value for cost in costs if (value := getattr(cost, name)) is not None]
    return max(known[-RECENT:], default=0.0)


def covered(intervals: Iterable[tuple[float, float]], before: float) -> float:
    """Seconds that some intervals cover together, of the time before a moment. Overlaps count once."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        stop = min(stop, before)
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


@dataclass
class Clock:
    """The time of one search.

    Attributes:
        hours: Length of the search, over all commands; `None` for no limit.
        spent: Seconds that earlier commands spent on trials.
        began: When this command began, in seconds since the epoch.
        costs: Of the trials so far.
        whole: Seconds of the last measurement of a trial, as far as known from that of the base.
    """

    hours: float | None
    spent: float = 0.0
    began: float = field(default_factory=time.time)
    costs: list[Cost] = field(default_factory=list)
    whole: float = 0.0

    @property
    def left(self) -> float:
        """Seconds left for trials; infinite without a limit."""
        if self.hours is None:
            return float("inf")
        setup = max((cost.setup for cost in self.costs[-RECENT:]), default=0.0)
        return 3600 * self.hours - self.spent - (time.time() - self.began) - max(REPORT, setup)

    @property
    def final(self) -> float:
        """Seconds of the measurement at the end of a trial."""
        return max((cost.final for cost in self.costs[-RECENT:] if cost.final is not None), default=self.whole)

    def fits(self, seconds: float) -> bool:
        """Whether so many seconds are left."""
        return seconds <= self.left

    def fits_any(self, shortest: Any, rungs: int) -> bool:
        """Whether the shortest trial would fit.

        Args:
            shortest: Number of steps of the shortest trial so far; `None` if there was none.
            rungs: Measurements on the way.
        """
        if shortest is None:
            return self.left > 0
        cheapest = min((predict(self.costs, cost.loss, shortest, rungs) for cost in self.costs), default=0.0)
        return self.fits(cheapest)
