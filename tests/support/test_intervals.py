"""Intervals against published numbers, definitions written out, and the coverage they promise."""

import itertools
import math

import numpy as np
import pytest

from trl_ext.support import intervals


def test_wilson_against_published_numbers():
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = intervals.share(successes, n)
        assert found.value == successes / n
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_ties_count_one_half():
    assert intervals.share_above([1.0, 2.0, 0.0, -1.0]).value == 2.5 / 4
    assert intervals.share_above([0.0] * 8).value == 0.5


def test_a_mean_is_within_its_interval_as_often_as_promised():
    generator = np.random.default_rng(0)
    covered = sum(found.low <= 3 <= found.high for found in map(intervals.mean, generator.normal(3, 2, (2000, 50))))
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)  # four standard errors; 50 normal values give 0.944
    assert intervals.mean([2.0]) == (2.0, None, None)
    with pytest.raises(ValueError, match="mean of an empty list"):
        intervals.mean([])


def test_area_under_the_curve_is_counted_pair_by_pair():
    generator = np.random.default_rng(1)
    positive, negative = generator.integers(0, 9, 23) + 2.0, generator.integers(0, 9, 31) + 0.0  # with ties
    wins = np.array([[(p > n) + 0.5 * (p == n) for n in negative] for p in positive])
    found = intervals.area_under_curve(positive, negative)
    assert found.value == pytest.approx(wins.mean())
    # DeLong et al. 1988, Eqs. 4 to 6: structural components and their sample variances.
    variance = wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative)
    assert found.high - found.value == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-6)
    assert intervals.area_under_curve([], [1.0]) is None
    assert intervals.area_under_curve([1.0, 2.0], [0.0, 0.5]) == (1, 1, 1)
    assert intervals.area_under_curve([1.0], [0.0, 2.0]) == (0.5, None, None)


def test_area_under_the_curve_is_covered_as_often_as_promised():
    generator = np.random.default_rng(2)
    true = 0.5 * (1 + math.erf(1 / 2))  # P(N(1, 1) > N(0, 1)) = Φ(1/√2)
    draws = itertools.starmap(
        intervals.area_under_curve, ((generator.normal(1, 1, 60), generator.normal(0, 1, 60)) for _ in range(1000))
    )
    assert sum(found.low <= true <= found.high for found in draws) / 1000 == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("n", [20, 108, 250, 256, 293, 400])
def test_a_share_lies_in_its_interval_however_extreme(n):
    for successes in (0, n):
        found = intervals.share(successes, n)
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_score_of_noughts_and_ones_is_a_share():
    for ones, n in ((0, 20), (3, 20), (20, 20), (249, 250)):
        values = [1.0] * ones + [0.0] * (n - ones)
        assert intervals.score(values) == pytest.approx(intervals.share(ones, n), abs=1e-12)


@pytest.mark.parametrize("n", [20, 200])
def test_a_score_within_0_and_1_has_its_interval_there_and_covers_no_less_than_a_normal_one(n):
    generator = np.random.default_rng(3)
    draws = generator.choice([1 / 3, 2 / 3, 1.0], (2000, n), p=[0.05, 0.05, 0.9])
    scores, means = map(intervals.score, draws), map(intervals.mean, draws)
    covered = {kind: 0 for kind in ("score", "normal")}
    for kind, found in (("score", scores), ("normal", means)):
        for each in found:
            assert kind == "normal" or 0 <= each.low <= each.value <= each.high <= 1
            covered[kind] += each.low <= 0.95 <= each.high
    assert covered["score"] >= covered["normal"] and covered["score"] / 2000 > (0.92 if n > 100 else 0.85)


def test_with_many_values_a_score_has_the_interval_of_a_mean():
    values = np.random.default_rng(4).beta(5, 2, 20_000)
    assert intervals.score(values) == pytest.approx(intervals.mean(values), rel=1e-4)


def test_other_scores_are_means():
    for values in ([-0.5, 0.5, 1.0], [0.5, 1.5], [0.7]):
        assert intervals.score(values) == intervals.mean(values)
    assert intervals.score([0.7, 0.7]) == (0.7, 0.7, 0.7)


def test_an_interval_is_written_as_it_is():
    for (value, low, high), form, text in (
        ((1.0, 0.9, 1.1), "{:.2f}", "1.00 ± 0.10"),
        ((-0.2, -0.3, -0.1), "{:+.1f}", "-0.2 ± 0.1"),
        ((0.998, 0.99, 0.9995), "{:.3f}", "0.998 (0.990–1.000)"),
        ((-0.001, None, None), "{:.2f}", "0.00"),
    ):
        assert intervals.format_estimate({"value": value, "low": low, "high": high}, form) == text
    assert intervals.format_estimate(None, "{:.2f}") == "—"
