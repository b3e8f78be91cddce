"""Logged numbers of a run's training steps, and means at either end of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Records = Sequence[dict[str, Any]]

WINDOW = 5
"""Records that are averaged at either end of a run: single batches differ by tenths of a nat per token."""

PATIENCE = 20
"""Optimizer steps before a run is judged at all."""


@dataclass(frozen=True)
class Facts:
    """What does not change during a run.

    Attributes:
        loss: Name of the loss, or of the parts of a mix; empty where the trainer has none to choose.
        is_paired: Whether it reads pairs.
        initial_loss: The loss at policy = reference, where it is known in advance.
        beta: β of a loss that reads a reference, if it has one.
        learning_rate: The highest one of the schedule.
        warmup_steps: Steps until then.
        examples_per_step: Over all processes.
    """

    loss: tuple[str, ...] = ()
    is_paired: bool = False
    initial_loss: float | None = None
    beta: float | None = None
    learning_rate: float = 0.0
    warmup_steps: int = 0
    examples_per_step: int = 1


def mean(records: Records, name: str) -> float | None:
    """Mean of what was logged; a step that was left out has logged NaN."""
    values = [float(record[name]) for record in records if record.get(name) is not None]
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else None


def first_and_last(records: Records, name: str) -> tuple[float, float] | None:
    """Means of the first and the last records that do not overlap, once there are enough of them."""
    if len(records) < 2 * WINDOW or records[-1]["step"] < PATIENCE:
        return None
    first, last = mean(records[:WINDOW], name), mean(records[-WINDOW:], name)
    return None if first is None or last is None else (first, last)


def last_steps(records: Records, steps: int) -> Records | None:
    """The records of the last so many steps; `None` if they do not reach back so far, or are fewer than three."""
    if not records:
        return None
    since = records[-1]["step"] - steps
    recent = [record for record in records if record["step"] > since]
    return recent if len(recent) >= 3 and records[0]["step"] <= since else None
