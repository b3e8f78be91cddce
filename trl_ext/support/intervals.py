"""Compute means, shares and areas under the curve with 95 % confidence intervals in closed form."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

Z = NormalDist().inv_cdf(0.975)
"""1.96, so that a normal interval of ± Z standard errors covers 95 %."""

INTERVALS = "95 %, by Wilson for shares and for rewards between 0 and 1, by the normal distribution for other means, by DeLong for the area under the curve"

TOLERANCE = 0.05
"""An interval is written as ± if its halves differ by less than this share of its width."""


class Estimate(NamedTuple):
    """A number with its interval; the estimate from a single value has none."""

    value: float
    low: float | None
    high: float | None


def mean(values: Sequence[float]) -> Estimate:
    """The mean ± `Z` standard errors. Raises ValueError if there are no values."""
    values = np.asarray(values, dtype=float)
    if not len(values):
        raise ValueError("The mean of an empty list is undefined.")
    if len(values) == 1:
        return Estimate(float(values[0]), None, None)
    return _normal(values.mean(), values.std(ddof=1) / math.sqrt(len(values)))


def share(successes: float, n: int) -> Estimate:
    """A proportion with Wilson's score interval (1927), which stays in [0, 1] and also holds for few or extreme values.

    Args:
        successes: Number of successes among `n`; a tie may count one half.
    """
    return wilson(successes / n, n)


def score(values: Sequence[float]) -> Estimate:
    """The mean reward of completions.

    If all rewards are between 0 and 1, the interval is Wilson's with the effective sample size n·m(1−m)/s² (Dean and Pagano
    2015, Journal of Survey Statistics and Methodology 3:484, for shares in clusters). It stays in [0, 1], equals the
    interval of `share` if all values are 0 or 1, and approaches that of `mean` for many values. Raises ValueError if there
    are no values.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2 or values.min() < 0 or values.max() > 1:
        return mean(values)
    m, variance = float(values.mean()), float(values.var())
    if variance:
        return wilson(m, len(values) * m * (1 - m) / variance)
    return wilson(m, len(values)) if m in (0, 1) else Estimate(m, m, m)


def wilson(p: float, n: float) -> Estimate:
    """Wilson's score interval (1927) of a proportion of n trials; n may be an effective sample size."""
    spread = Z**2 / n
    centre = (p + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    # At 0 and 1 rounding would leave the share itself outside.
    return Estimate(p, min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p))


def share_above(margins: Sequence[float]) -> Estimate:
    """The share of positive margins; zero counts one half."""
    margins = np.asarray(margins)
    return share((margins > 0).sum() + 0.5 * (margins == 0).sum(), len(margins))


def area_under_curve(positive: Sequence[float], negative: Sequence[float]) -> Estimate | None:
    """The probability that a positive ranks above a negative, ties counting one half; `None` if one class is empty.

    The variance is that of DeLong, DeLong and Clarke-Pearson (1988), from the rank of each value in the other class.
    """
    positive, negative = np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)
    if not len(positive) or not len(negative):
        return None
    above = _share_below(negative, positive)  # of the negatives, for each positive
    below = 1 - _share_below(positive, negative)
    if min(len(positive), len(negative)) == 1:
        return Estimate(float(above.mean()), None, None)
    error = math.sqrt(above.var(ddof=1) / len(positive) + below.var(ddof=1) / len(negative))
    value, low, high = _normal(above.mean(), error)  # clipping to [0, 1] does not change its coverage
    return Estimate(value, max(low, 0.0), min(high, 1.0))


def format_estimate(figure: Mapping[str, float | None] | None, form: str) -> str:
    """A number and its interval: as ± half the width if it is symmetric, else as (from–to).

    Args:
        figure: An `Estimate`, as a mapping with `value`, `low` and `high`.
        form: Format of the numbers, such as `{:.2f}`.
    """
    if figure is None:
        return "—"
    value, low, high = figure["value"], figure["low"], figure["high"]
    if low is None or low == high:
        return _number(value, form)
    below, above = value - low, high - value
    if abs(above - below) > TOLERANCE * (high - low):
        return f"{_number(value, form)} ({_number(low, form)}–{_number(high, form)})"
    return f"{_number(value, form)} ± {form.replace('+', '').format((high - low) / 2)}"


def _number(value: float, form: str) -> str:
    text = form.format(value)
    return text if float(text) else text.replace("-", "")  # no minus before a rounded zero


def _share_below(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The share of `values` below each point, equal ones counting one half."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, points, "left") + np.searchsorted(ordered, points, "right")) / (2 * len(values))


def _normal(value: float, error: float) -> Estimate:
    return Estimate(float(value), float(value - Z * error), float(value + Z * error))
