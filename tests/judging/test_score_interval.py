"""The interval of a mean score against Wilson's, Tango's in closed form, and the coverage it promises."""

import math

import numpy as np
import pytest

from trl_ext.judging.score_interval import score_interval
from trl_ext.support import intervals

Z = 1.959963984540054


def test_scores_of_0_and_1_have_the_interval_of_a_share():
    for ones, n in ((0, 20), (3, 20), (20, 20), (1, 1), (249, 250)):
        scores = np.array([1.0] * ones + [0.0] * (n - ones))
        assert score_interval(scores) == pytest.approx(intervals.share(ones, n), abs=1e-9)


@pytest.mark.parametrize(("wins", "ties", "losses"), [(5, 10, 2), (1, 19, 0), (0, 12, 3), (7, 1, 7), (4, 3, 0)])
def test_wins_ties_and_losses_have_tangos_interval_for_paired_proportions(wins, ties, losses):
    """Tango 1998: (b − c − nδ) / √(n(2q + δ(1 − δ))) = ±z, with q the closed-form maximum-likelihood share of losses at δ."""
    n = wins + ties + losses

    def statistic(delta: float) -> float:
        b = -wins - losses + (2 * n - wins + losses) * delta
        q = (math.sqrt(b * b + 8 * n * losses * delta * (1 - delta)) - b) / (4 * n)
        return (wins - losses - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))

    found = score_interval(np.array([1.0] * wins + [0.5] * ties + [0.0] * losses))
    assert found.value == pytest.approx((wins + ties / 2) / n)
    assert statistic(2 * found.low - 1) == pytest.approx(Z, abs=1e-6)
    assert statistic(2 * found.high - 1) == pytest.approx(-Z, abs=1e-6)


def test_ties_alone_have_a_width_that_shrinks_with_their_number():
    for n in (1, 10, 1000):  # δ = z²/(n + z²) solves Tango's equation for wins = losses = 0
        half = Z**2 / (2 * (n + Z**2))
        assert score_interval(np.full(n, 0.5)) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-9)


@pytest.mark.parametrize("p", [(0, 0, 0.95, 0, 0.05), (0.02, 0.02, 0.06, 0.1, 0.8)], ids=["ties", "wins"])
def test_quarter_scores_of_20_prompts_are_covered_as_often_as_promised(p):
    values = np.array([0, 0.25, 0.5, 0.75, 1])
    draws, times = np.unique(np.random.default_rng(0).multinomial(20, p, 400), axis=0, return_counts=True)
    covered = 0
    for counts, number in zip(draws, times, strict=True):
        found = score_interval(np.repeat(values, counts))
        assert 0 <= found.low <= found.value <= found.high <= 1
        covered += number * (found.low <= values @ p <= found.high)
    assert covered / 400 >= 0.93  # two standard errors below 0.95


def test_mirrored_scores_have_the_mirrored_interval():
    scores = np.array([0, 0.25, 0.75, 1, 1, 0.5, 0.75])
    value, low, high = score_interval(1 - scores)
    assert score_interval(scores) == pytest.approx((1 - value, 1 - high, 1 - low), abs=1e-9)
