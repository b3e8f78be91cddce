"""Interval for the mean of scores between 0 and 1, such as the win rate with ties as one half."""

import numpy as np

from trl_ext.support.intervals import Estimate, Z

HALVINGS = 40
"""Of the ranges that are searched for a root; their relative width is then 1e-12."""


def score_interval(scores: np.ndarray) -> Estimate:
    """The mean of independent scores with its score-test interval.

    A mean μ belongs to the interval if |m − μ| ≤ `Z`·√(σ²(μ)/n), where m is the mean of the n scores and σ²(μ) the variance under
    the multinomial distribution that has mean μ and maximum likelihood. This distribution may also give probability to the
    scores 0 and 1 where none was observed. With the scores 0 and 1 the interval is Wilson's (1927). With the scores 0, ½ and 1
    it is Tango's for paired proportions (1998, Statistics in Medicine 17:891), here for ½ + (wins − losses)/(2n). It stays in
    [0, 1] and has a width even if all scores are equal: n ties give ½ ± `Z`²/(2(n + `Z`²)). Normal intervals and those with an
    effective sample size have none then.

    Args:
        scores: [N] with N > 0, each between 0 and 1.
    """
    values, counts = np.unique(np.asarray(scores, dtype=float), return_counts=True)
    mean = float(values @ counts / counts.sum())
    tally = list(zip(values.tolist(), counts.tolist(), strict=True))  # plain numbers: few values, many evaluations
    return Estimate(mean, _limit(tally, mean, end=0.0), _limit(tally, mean, end=1.0))


def _limit(tally: list[tuple[float, int]], mean: float, end: float) -> float:
    """The mean nearest to `end`, which is 0 or 1, that the score test does not reject."""
    if mean == end:
        return end
    n = sum(count for _, count in tally)
    kept, rejected = mean, end
    for _ in range(HALVINGS):
        middle = (kept + rejected) / 2
        if n * (mean - middle) ** 2 <= Z**2 * _variance(tally, n, middle):
            kept = middle
        else:
            rejected = middle
    return kept


def _variance(tally: list[tuple[float, int]], n: int, mean: float) -> float:
    """The variance under the most likely distribution on the observed values, 0 and 1 with the given mean, inside (0, 1).

    With the Lagrange multiplier λ of the mean, the probability of value v is count / (n + λ(v − mean)). At the smallest and the
    largest λ, the denominator is zero for the value 1 or 0. That value then has the rest of the probability.
    """
    low, high = -n / (1 - mean), n / mean
    for _ in range(HALVINGS):
        multiplier = (low + high) / 2
        if sum(count * (value - mean) / (n + multiplier * (value - mean)) for value, count in tally) > 0:
            low = multiplier
        else:
            high = multiplier
    probabilities = [count / (n + multiplier * (value - mean)) for value, count in tally]
    rest = max(1 - sum(probabilities), 0.0)
    observed = sum(p * (value - mean) ** 2 for p, (value, _) in zip(probabilities, tally, strict=True))
    return observed + rest * (mean if multiplier > 0 else 1 - mean) ** 2
