"""Means, shares and ranks of what was measured, each with a 95 % interval in closed form."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

Z = NormalDist().inv_cdf(0.975)
"""1.96, so that a normal interval of ± Z standard errors covers 95 %."""

INTERVALS = "95 %: Wilson for shares, normal for means, DeLong for the area under the curve"


class Estimate(NamedTuple):
    """A number and its interval, which a single value does not have."""

    value: float
    low: float | None
    high: float | None


def mean(values: Sequence[float]) -> Estimate:
    """The mean ± `Z` standard errors. ValueError without values."""
    values = np.asarray(values, dtype=float)
    if not len(values):
        raise ValueError("There is no mean of no values.")
    if len(values) == 1:
        return Estimate(float(values[0]), None, None)
    return _normal(values.mean(), values.std(ddof=1) / math.sqrt(len(values)))


def share(successes: float, n: int) -> Estimate:
    """A proportion with Wilson's score interval (1927): inside [0, 1], and of use for few and for extreme ones too.

    Args:
        successes: Of `n`; a tie may count one half.
    """
    p, spread = successes / n, Z**2 / n
    centre = (p + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    # At 0 and 1 rounding would leave the share itself outside.
    return Estimate(p, min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p))


def share_above(margins: Sequence[float]) -> Estimate:
    """How many margins are positive; one that is zero counts one half."""
    margins = np.asarray(margins)
    return share((margins > 0).sum() + 0.5 * (margins == 0).sum(), len(margins))


def area_under_curve(positive: Sequence[float], negative: Sequence[float]) -> Estimate | None:
    """How often a positive ranks above a negative, a tie counting one half; `None` if either is missing.

    The variance is DeLong, DeLong and Clarke-Pearson's (1988), from how each value ranks among those of the other class.
    """
    positive, negative = np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)
    if not len(positive) or not len(negative):
        return None
    above = _share_below(negative, positive)  # of the negatives, for each positive
    below = 1 - _share_below(positive, negative)
    if min(len(positive), len(negative)) == 1:
        return Estimate(float(above.mean()), None, None)
    error = math.sqrt(above.var(ddof=1) / len(positive) + below.var(ddof=1) / len(negative))
    value, low, high = _normal(above.mean(), error)
    return Estimate(value, max(low, 0.0), min(high, 1.0))


def _share_below(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The share of `values` below each point, equal ones counting one half."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, points, "left") + np.searchsorted(ordered, points, "right")) / (2 * len(values))


def _normal(value: float, error: float) -> Estimate:
    return Estimate(float(value), float(value - Z * error), float(value + Z * error))
