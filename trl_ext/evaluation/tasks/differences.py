"""Compare the results of two models on the same documents, with 95 % confidence intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from trl_ext.judging.score_interval import score_interval
from trl_ext.support import intervals
from trl_ext.support.intervals import Estimate, Z

RESAMPLES = 1000
"""How often documents are drawn for metrics that are no means."""


class Compared(NamedTuple):
    """The base, the tuned model, and the tuned model minus the base."""

    base: Estimate
    tuned: Estimate
    difference: Estimate


def of_means(base: Sequence[float], tuned: Sequence[float]) -> Compared:
    """Compare means over documents.

    For values between 0 and 1, the interval of the difference is that of the score test, for values 0 and 1 Tango's for paired
    proportions (see `score_interval`), and those of the models are Wilson's (see `intervals.score`). For other values all are
    normal, that of the difference from the differences per document.

    Args:
        base: [N] with N > 0, the value of the base for each document.
        tuned: [N], the value of the tuned model for the same documents.
    """
    before, after = (np.asarray(values, dtype=float) for values in (base, tuned))
    if min(before.min(), after.min()) < 0 or max(before.max(), after.max()) > 1:
        return Compared(*map(intervals.mean, (before, after, after - before)))
    moved = score_interval((1 + after - before) / 2)
    return Compared(intervals.score(before), intervals.score(after), Estimate(*(2 * limit - 1 for limit in moved)))


def of_aggregates(
    aggregate: Callable[[list], float], base: list, tuned: list, *, resamples: int = RESAMPLES
) -> Compared:
    """Compare numbers that are no means, such as perplexity or F1. Intervals are normal, with the errors of a paired bootstrap.

    Each resample takes the same documents of both models, so that the difficulty of a document cancels in the difference. The
    random numbers are always the same.

    Args:
        aggregate: Computes the number from the results of documents.
        base: [N] with N > 0, the result of the base for each document.
        tuned: [N], the result of the tuned model for the same documents.
        resamples: How often the documents are drawn.
    """

    def computed(chosen: Sequence[int]) -> tuple[float, float, float]:
        before, after = (float(aggregate([each[i] for i in chosen])) for each in (base, tuned))
        return before, after, after - before

    n, random = len(base), np.random.default_rng(0)
    values = computed(range(n))
    if n == 1:
        return Compared(*(Estimate(value, None, None) for value in values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about resamples without one of the classes, for instance
        drawn = [computed(random.integers(n, size=n).tolist()) for _ in range(resamples)]
    return Compared(*map(_normal, values, np.std(drawn, axis=0, ddof=1).tolist()))


def combined(parts: Sequence[tuple[float, Compared]]) -> Compared:
    """The weighted mean over independent tasks, with normal intervals from half the widths of theirs.

    Args:
        parts: For each task its weight and its results. Weights need not sum to 1.
    """
    weights = [weight for weight, _ in parts]
    return Compared(*(_weighted(weights, estimates) for estimates in zip(*(each for _, each in parts), strict=True)))


def is_number(value: Any) -> bool:
    """Whether it is one finite number."""
    return isinstance(value, Real | np.bool_) and math.isfinite(value)


def _weighted(weights: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    # In the order in which the harness computes it, so that the last digit is the same.
    value = sum(weight * estimate.value for weight, estimate in zip(weights, estimates, strict=True)) / sum(weights)
    if any(estimate.low is None for estimate in estimates):
        return Estimate(value, None, None)
    halves = [(estimate.high - estimate.low) / 2 for estimate in estimates]
    half = math.hypot(*(weight * each for weight, each in zip(weights, halves, strict=True))) / sum(weights)
    return Estimate(value, value - half, value + half)


def _normal(value: float, error: float) -> Estimate:
    return Estimate(value, value - Z * error, value + Z * error)
