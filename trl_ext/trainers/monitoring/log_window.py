"""Average logged metrics over windows at the beginning and the end of a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Records = Sequence[dict[str, Any]]

WINDOW = 5
"""Number of records averaged at the beginning and the end of a run: single batches differ by tenths of a nat per token."""

PATIENCE = 20
"""Optimizer steps before any warning."""


@dataclass(frozen=True)
class Facts:
    """Facts about a run that do not change during it.

    Attributes:
        loss: Name of the loss, or names of the parts of a mix; empty if the trainer has a fixed loss.
        is_paired: Whether the loss reads pairs.
        initial_loss: The loss at policy = reference, if it is known in advance.
        beta: β of a loss that reads a reference, if there is one.
        learning_rate: Maximum of the schedule.
        warmup_steps: Steps until this maximum.
        examples_per_step: Number of examples of an optimizer step over all processes.
    """

    loss: tuple[str, ...] = ()
    is_paired: bool = False
    initial_loss: float | None = None
    beta: float | None = None
    learning_rate: float = 0.0
    warmup_steps: int = 0
    examples_per_step: int = 1


def mean(records: Records, name: str) -> float | None:
    """Mean of the logged finite values; skipped steps log NaN. `None` without any."""
    values = [float(record[name]) for record in records if record.get(name) is not None]
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else None


def first_and_last(records: Records, name: str) -> tuple[float, float] | None:
    """Means over the first and the last records; `None` until there are enough for windows that do not overlap."""
    if len(records) < 2 * WINDOW or records[-1]["step"] < PATIENCE:
        return None
    first, last = mean(records[:WINDOW], name), mean(records[-WINDOW:], name)
    return None if first is None or last is None else (first, last)


def last_steps(records: Records, steps: int) -> Records | None:
    """The records of the last `steps` steps; `None` if the records are of fewer steps, or fewer than three."""
    if not records:
        return None
    since = records[-1]["step"] - steps
    recent = [record for record in records if record["step"] > since]
    return recent if len(recent) >= 3 and records[0]["step"] <= since else None
