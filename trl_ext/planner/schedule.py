"""The length of a run in steps, epochs and tokens. `trl_ext.build.schedule_of` counts it."""

from __future__ import annotations

from typing import NamedTuple


class Schedule(NamedTuple):
    """The length of a run on one process.

    Attributes:
        steps: Optimizer steps of the run.
        epochs: Epochs of the run; a part of one if `max_steps` ends it earlier.
        examples: Examples of an epoch.
        tokens: Tokens that are trained on, as a run counts `num_tokens`; the most possible if completions are sampled. `None`
            if the lengths are not known.
    """

    steps: int
    epochs: float
    examples: int
    tokens: float | None
