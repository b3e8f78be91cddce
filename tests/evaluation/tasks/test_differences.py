"""Differences and their intervals against closed forms."""

import math

import numpy as np
import pytest

from trl_ext.evaluation.tasks.differences import combined, is_number, of_aggregates, of_means

Z = 1.959964


def tango(wins: int, losses: int, n: int) -> tuple[float, float]:
    """Limits of the difference of paired proportions by the score test (Tango 1998), from a fine grid of differences."""
    kept = []
    for delta in np.linspace(-1, 1, 20001)[1:-1]:
        b = -wins - losses + (2 * n - wins + losses) * delta
        q21 = (math.sqrt(b**2 + 8 * n * losses * delta * (1 - delta)) - b) / (4 * n)
        variance = n * (2 * q21 + delta * (1 - delta))
        if abs(wins - losses - n * delta) <= Z * math.sqrt(max(variance, 0)):
            kept.append(delta)
    return min(kept), max(kept)


@pytest.mark.parametrize(("wins", "losses", "same"), [(3, 9, 18), (0, 5, 15), (0, 0, 12)])
def test_accuracies_are_compared_by_the_score_test_of_paired_proportions(wins, losses, same):
    base = [0] * wins + [1] * losses + [i % 2 for i in range(same)]
    tuned = [1] * wins + [0] * losses + [i % 2 for i in range(same)]
    n = len(base)
    found = of_means(base, tuned)
    assert found.difference.value == pytest.approx((wins - losses) / n) == found.tuned.value - found.base.value
    low, high = tango(wins, losses, n)
    assert found.difference.low == pytest.approx(low, abs=2e-4) and found.difference.high == pytest.approx(
        high, abs=2e-4
    )


def test_other_means_are_compared_document_by_document():
    """Pairing matters: both models vary by 100 between documents, and differ by 1 ± 0.1 in each."""
    base, tuned = [100.0, -100.0, 50.0, -50.0], [101.1, -99.1, 51.0, -49.0]
    found = of_means(base, tuned)
    gains = np.array([1.1, 0.9, 1.0, 1.0])
    assert found.difference.value == pytest.approx(1.0)
    assert found.difference.high - 1.0 == pytest.approx(Z * gains.std(ddof=1) / 2, rel=1e-5)
    assert found.tuned.high - found.tuned.value > 50


def test_the_bootstrap_of_a_mean_has_the_error_of_the_mean():
    rng = np.random.default_rng(1)
    base = rng.normal(size=200)
    tuned = base + rng.normal(loc=0.5, scale=0.2, size=200)
    found = of_aggregates(lambda values: sum(values) / len(values), list(base), list(tuned))
    error = (tuned - base).std(ddof=1) / math.sqrt(200)
    assert found.difference.value == pytest.approx((tuned - base).mean())
    assert (found.difference.high - found.difference.low) / 2 == pytest.approx(Z * error, rel=0.1)
    assert found == of_aggregates(lambda values: sum(values) / len(values), list(base), list(tuned))


def test_a_group_is_the_weighted_mean_of_its_tasks():
    parts = [(30, of_means([1.0, 3.0, 5.0], [2.0, 3.0, 4.5])), (10, of_means([7.0, 9.0], [7.0, 10.0]))]
    found = combined(parts)
    halves = [(each.difference.high - each.difference.low) / 2 for _, each in parts]
    assert found.base.value == pytest.approx(0.75 * 3 + 0.25 * 8)
    assert found.difference.value == pytest.approx(0.75 * 0.5 / 3 + 0.25 * 0.5)
    assert found.difference.high - found.difference.value == pytest.approx(
        math.hypot(0.75 * halves[0], 0.25 * halves[1])
    )


def test_one_document_has_no_normal_interval():
    assert of_aggregates(max, [2.0], [3.0]).difference == (1.0, None, None)
    assert of_means([2.0], [3.0]).difference == (1.0, None, None)
    assert combined([(1, of_means([2.0], [3.0])), (1, of_means([1.0, 2.0], [3.0, 4.0]))]).difference == (
        1.5,
        None,
        None,
    )


def test_numbers():
    assert all(map(is_number, (1, 0.5, True, np.float32(2), np.bool_(False), np.int64(3))))
    assert not any(map(is_number, (None, "1", [1], (0.5, 1), math.nan, math.inf)))
