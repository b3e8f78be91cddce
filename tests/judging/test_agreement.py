"""Cohen's κ against published numbers, its definition with numeric derivatives, and the coverage of its interval."""

import math

import numpy as np
import pytest

from trl_ext.judging.agreement import agreement

VALUES = np.array([0.0, 0.5, 1.0])


def of_table(counts):
    """Scores of two judges with these counts of (row, column) outcomes."""
    cells = np.repeat(np.arange(9), np.ravel(counts))
    return VALUES[cells // 3], VALUES[cells % 3]


def kappa(table):
    table = table / table.sum()
    expected = sum(table[k, :].sum() * table[:, k].sum() for k in range(3))
    return (sum(table[k, k] for k in range(3)) - expected) / (1 - expected)


def test_against_cohens_example():
    # Cohen 1960, Educational and Psychological Measurement 20:37, table 1 (200 persons): pₒ = 0.70, pₑ = 0.41, κ = 0.492.
    found = agreement(*of_table([[88, 14, 18], [10, 40, 10], [2, 6, 12]]))
    assert found.agreed.value == pytest.approx(0.70)
    assert found.kappa.value == pytest.approx(0.492, abs=5e-4)


def test_with_many_prompts_the_interval_is_that_of_the_delta_method():
    counts = np.array([[8800, 1400, 1800], [1000, 4000, 1000], [200, 600, 1200]])
    n, shares, slopes = counts.sum(), counts / counts.sum(), np.zeros((3, 3))
    for cell in np.ndindex(3, 3):  # along the share of the cell, the others being unchanged in proportion
        moved = [shares.copy(), shares.copy()]
        moved[0][cell] += 1e-6
        moved[1][cell] -= 1e-6
        slopes[cell] = (kappa(moved[0]) - kappa(moved[1])) / 2e-6
    error = math.sqrt(((shares * slopes**2).sum() - (shares * slopes).sum() ** 2) / n)
    found = agreement(*of_table(counts)).kappa
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * error, rel=1e-3)


@pytest.mark.parametrize("n", [20, 100])
def test_kappa_is_covered_as_often_as_promised(n):
    shares = np.array([[0.3, 0.05, 0.02], [0.05, 0.1, 0.03], [0.02, 0.03, 0.4]])
    draws = np.random.default_rng(0).multinomial(n, shares.ravel(), 1000)
    found = [agreement(*of_table(counts)).kappa for counts in draws]
    covered = sum(each.low <= kappa(shares) <= each.high for each in found)
    assert covered / 1000 == pytest.approx(0.95, abs=0.025)


def test_full_agreement_has_an_interval_below_it():
    found = agreement(*of_table(np.diag([4, 2, 6])))
    assert found.kappa.value == 1 == found.kappa.high and 0.4 < found.kappa.low < 0.9


def test_quarter_scores_are_wins_and_losses_and_unclear_prompts_are_left_out():
    found = agreement([0.75, 0.25, 0.5, math.nan, 1], [1, 0, 0.5, 1, math.nan])
    assert (found.kappa.value, found.n, found.left_out) == (1, 3, 2)


def test_constant_judges_say_so():
    for first, second, words in (
        ([1, 1], [1, 1], "a win on every prompt"),
        ([1, 1], [0, 0], "a win and a loss on every prompt"),
    ):
        found = agreement(first, second)
        assert found.kappa is None and found.note.startswith(f"Both judges are constant ({words})")
    one = agreement([1, 0, 0.5], [0.5, 0.5, 0.5])
    assert one.kappa == (0, None, None) and one.note.startswith("The second judge calls every prompt a tie.")
    none = agreement([math.nan], [1])
    assert none.kappa is None and none.agreed is None and "No prompt" in none.note
    with pytest.raises(ValueError, match="2 scores and the other 1"):
        agreement([1, 1], [1])
