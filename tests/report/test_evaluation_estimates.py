"""Intervals against published numbers, definitions written out, and the coverage they promise."""

import itertools
import math

import numpy as np
import pytest

from trl_ext.report import evaluation_estimates as estimates


def test_wilson_against_published_numbers():
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = estimates.share(successes, n)
        assert found.value == successes / n
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_ties_count_one_half():
    assert estimates.share_above([1.0, 2.0, 0.0, -1.0]).value == 2.5 / 4
    assert estimates.share_above([0.0] * 8).value == 0.5


def test_a_mean_is_within_its_interval_as_often_as_promised():
    generator = np.random.default_rng(0)
    covered = sum(found.low <= 3 <= found.high for found in map(estimates.mean, generator.normal(3, 2, (2000, 50))))
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)  # four standard errors; 50 normal values give 0.944
    assert estimates.mean([2.0]) == (2.0, None, None)
    with pytest.raises(ValueError, match="no values"):
        estimates.mean([])


def test_area_under_the_curve_is_counted_pair_by_pair():
    generator = np.random.default_rng(1)
    positive, negative = generator.integers(0, 9, 23) + 2.0, generator.integers(0, 9, 31) + 0.0  # with ties
    wins = np.array([[(p > n) + 0.5 * (p == n) for n in negative] for p in positive])
    found = estimates.area_under_curve(positive, negative)
    assert found.value == pytest.approx(wins.mean())
    # DeLong et al. 1988, Eqs. 4 to 6: structural components and their sample variances.
    variance = wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative)
    assert found.high - found.value == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-6)
    assert estimates.area_under_curve([], [1.0]) is None
    assert estimates.area_under_curve([1.0, 2.0], [0.0, 0.5]) == (1, 1, 1)
    assert estimates.area_under_curve([1.0], [0.0, 2.0]) == (0.5, None, None)


def test_area_under_the_curve_is_covered_as_often_as_promised():
    generator = np.random.default_rng(2)
    true = 0.5 * (1 + math.erf(1 / 2))  # P(N(1, 1) > N(0, 1)) = Φ(1/√2)
    draws = itertools.starmap(
        estimates.area_under_curve, ((generator.normal(1, 1, 60), generator.normal(0, 1, 60)) for _ in range(1000))
    )
    assert sum(found.low <= true <= found.high for found in draws) / 1000 == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("n", [20, 108, 250, 256, 293, 400])
def test_a_share_lies_in_its_interval_however_extreme(n):
    for successes in (0, n):
        found = estimates.share(successes, n)
        assert 0 <= found.low <= found.value <= found.high <= 1
