"""Derive lengths, batches, steps and held-out rows from the data and the memory plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from trl_ext.build.data_size import STEP, DataSize, describe, rounded
from trl_ext.methods import Method

SHORTEST = 128
WHOLE = 0.99
"""Share of the sequences that `max_length` should keep whole."""
SPARE = 1.25
"""The longest sequence is kept whole too if it is at most this much longer than the others."""
LARGEST_BATCH, SMALLEST_BATCH = 32, 4
STEPS_OF_AN_EPOCH = 20
"""Least steps of an epoch: fewer examples per step are used for little data."""
MICRO_BATCHES = (8, 4, 2, 1)
MANY = 1000
"""Examples from which one epoch is enough."""
EPOCHS_OF_FEW = 3
LEAST_TO_HOLD_OUT, HELD_OUT, MOST_HELD_OUT = 100, 0.05, 500
EVALUATIONS = 5
COMPLETION = 512
"""Tokens of sampled completions."""


def length(size: DataSize, most: int) -> int:
    """`max_length`: enough for `WHOLE` of the sequences, and at most `most`, what model and card allow."""
    common, longest = size.percentile(WHOLE), int(size.sequences.max())
    wanted = (
        longest
        if longest <= SPARE * common and not size.is_sample
        else math.ceil(common * (SPARE if size.is_sample else 1))
    )
    return max(min(max(rounded(wanted), SHORTEST), most), 1)


def completion_length(size: DataSize) -> int:
    """`max_completion_length`: `COMPLETION`, or what the positions of the model leave after the longest prompt."""
    room = (size.positions or math.inf) - int(size.sequences.max())
    return int(max(min(COMPLETION, room // STEP * STEP if room >= STEP else room), 1))


def about_length(size: DataSize, method: Method, limit: int) -> list[str]:
    """Sentences on the measured lengths, and on what a limit does to them."""
    found = describe(size, method, limit)
    if size.longer_than(limit) == 0:
        return [f"{found[0]} Every sequence fits."]
    if limit < rounded(size.percentile(WHOLE)):
        found.append("Model or card allow no more.")
    return found


def examples_per_step(examples: int) -> int:
    """A power of two: `LARGEST_BATCH`, or fewer if an epoch would have less than `STEPS_OF_AN_EPOCH` steps."""
    fitting = max(examples // STEPS_OF_AN_EPOCH, 1)
    return max(min(LARGEST_BATCH, 2 ** (fitting.bit_length() - 1)), min(SMALLEST_BATCH, examples))


def micro_batch(per_step: int, multiple: int, fits: Callable[[int], bool]) -> int:
    """The largest micro-batch that fits the card: a divisor of the step, and a multiple of `multiple`."""
    possible = [size for size in MICRO_BATCHES if size <= per_step and per_step % size == 0 and size % multiple == 0]
    return next((size for size in possible if fits(size)), possible[-1] if possible else multiple)


class Duration(NamedTuple):
    """Epochs and steps of a run, rows held out for evaluation (0 for none), and steps between evaluations."""

    epochs: int
    steps: int
    held_out: int
    every: int


def duration(examples: int, per_step: int) -> Duration:
    """One epoch of much data, `EPOCHS_OF_FEW` of little; about `EVALUATIONS` evaluations.

    Args:
        examples: Examples before any are held out.
        per_step: Examples of a step.
    """
    held_out = min(math.ceil(HELD_OUT * examples), MOST_HELD_OUT) if examples >= LEAST_TO_HOLD_OUT else 0
    epochs = 1 if examples >= MANY else EPOCHS_OF_FEW
    steps = max(math.ceil((examples - held_out) / per_step), 1) * epochs
    return Duration(epochs, steps, held_out, max(math.ceil(steps / EVALUATIONS), 1))


def sampled_duration(prompts: int, per_rollout: int) -> Duration:
    """The same for sampled completions: a rollout is one step, and prompts that fill no rollout are left out."""
    found = duration(prompts, per_rollout)
    steps = max(prompts // per_rollout, 1) * found.epochs
    return Duration(found.epochs, steps, 0, max(math.ceil(steps / EVALUATIONS), 1))
