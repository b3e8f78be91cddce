"""Bradley–Terry strengths against closed forms and an independent optimiser (minorisation–maximisation)."""

import math

import numpy as np
import pytest

from trl_ext.judging.strengths import count_wins, strengths


def by_mm(wins):
    """Hunter 2004, Annals of Statistics 32:384: pᵢ ← Wᵢ / Σⱼ nᵢⱼ/(pᵢ + pⱼ), until nothing changes. Log-odds against run 0."""
    p = np.ones(len(wins))
    for _ in range(200_000):
        new = wins.sum(1) / ((wins + wins.T) / (p[:, None] + p[None, :])).sum(1)
        new /= new[0]
        if np.abs(new / p - 1).max() < 1e-14:
            break
        p = new
    return np.log(p)


def test_two_players_have_the_log_odds_of_their_games():
    for wins, losses in ((3, 1), (7.5, 0.5), (1, 999), (2, 2)):
        found = strengths(["base", "tuned"], [[0, losses], [wins, 0]])
        value, error = math.log(wins / losses), math.sqrt(1 / wins + 1 / losses)  # of a log-odds
        assert found.values["tuned"] == pytest.approx((value, value - 1.959964 * error, value + 1.959964 * error))
        assert (found.values["base"], found.reference, found.notes) == ((0, None, None), "base", [])


def test_three_runs_from_their_games():
    # A beats B 3 : 1, A and C 1 : 1, B and C 1 : 1. By symmetry C is halfway: s_A = a, s_C = 0, s_B = −a, and A's expected wins
    # are its wins: 4·σ(2a) + 2·σ(a) = 3 + 1.
    low, high = 0.0, 5.0
    for _ in range(100):
        a = (low + high) / 2
        low, high = (a, high) if 4 / (1 + math.exp(-2 * a)) + 2 / (1 + math.exp(-a)) < 4 else (low, a)
    games = {("A", "B"): [1, 1, 1, 0], ("A", "C"): [1, 0], ("C", "B"): [0.5, 0.5, math.nan]}
    wins = count_wins("CAB", games)
    assert wins.tolist() == [[0, 1, 1], [1, 0, 3], [1, 1, 0]]
    found = strengths("CAB", wins).values
    assert [found[name].value for name in "CAB"] == pytest.approx([0, a, -a], abs=1e-10)
    # Information with C as reference: for A and B, v = 4σ'(2a) between them and u = 2σ'(a) with C.
    u, v = (n / (2 * math.cosh(x / 2)) ** 2 for n, x in ((2, a), (4, 2 * a)))
    error = math.sqrt((u + v) / ((u + v) ** 2 - v**2))
    assert found["A"].high - found["A"].value == pytest.approx(1.959964 * error, rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_random_tournaments_equal_an_independent_optimiser(seed):
    generator = np.random.default_rng(seed)
    runs = int(generator.integers(3, 9))
    wins = generator.integers(1, 40, (runs, runs)) / generator.choice([1, 2, 4])
    wins[1, 2] = wins[2, 1] = 0  # a pair that did not play
    np.fill_diagonal(wins, 0)
    found = strengths([str(i) for i in range(runs)], wins)
    assert not found.notes
    assert [each.value for each in found.values.values()] == pytest.approx(by_mm(wins), abs=1e-6)


def test_strengths_lie_far_apart():
    wins = np.array([[0, 1, 0], [1000, 0, 1], [0, 1000, 0]])
    found = strengths("abc", wins).values  # a chain: each log-odds by itself
    assert [found[name].value for name in "abc"] == pytest.approx([0, math.log(1000), 2 * math.log(1000)], abs=1e-9)


def test_the_interval_covers_as_often_as_promised():
    generator, true, covered = np.random.default_rng(0), np.array([0, 0.8, -0.5]), 0
    p = 1 / (1 + np.exp(true[None, :] - true[:, None]))
    for _ in range(400):
        wins = np.triu(generator.binomial(60, p), 1)
        wins = wins + np.tril(60 - wins.T, -1)
        found = strengths("abc", wins).values["b"]
        covered += found.low <= 0.8 <= found.high
    assert covered / 400 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(
    ("wins", "finite", "notes"),
    [
        (
            [[0, 2, 0], [3, 0, 0], [5, 5, 0]],
            {"base": 0, "a": math.log(3 / 2)},
            ["b won every game.", "b has no finite strength against base."],
        ),
        (
            [[0, 2, 5], [3, 0, 5], [0, 0, 0]],
            {"base": 0, "a": math.log(3 / 2)},
            ["b lost every game.", "b has no finite strength against base."],
        ),
        (
            [[0, 0, 0], [5, 0, 2], [5, 3, 0]],
            {"a": 0, "b": math.log(3 / 2)},
            [
                "base lost every game.",
                "base has no finite strength against a.",
                "Strengths are relative to a, because that of base is not finite.",
            ],
        ),
        (
            [[0, 2, 0], [3, 0, 0], [0, 0, 0]],
            {"base": 0, "a": math.log(3 / 2)},
            ["No game connects b with other runs.", "b has no finite strength against base."],
        ),
        (
            [[0, 0, 5], [5, 0, 5], [0, 0, 0]],
            {"base": 0},
            [
                "base won everything against some runs and lost everything against the others.",
                "a won every game.",
                "b lost every game.",
                "a and b have no finite strength against base.",
            ],
        ),
    ],
    ids=["wins all", "loses all", "base loses all", "not connected", "a ladder"],
)
def test_without_a_finite_strength_it_says_which_run_and_why(wins, finite, notes):
    found = strengths(["base", "a", "b"], wins)
    assert {name: each.value for name, each in found.values.items() if each} == pytest.approx(finite, abs=1e-10)
    assert found.notes == notes


def test_groups_without_a_game_between_them_are_named():
    two = [[0, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1], [0, 0, 2, 0]]
    assert strengths("abcd", two).notes[0] == "No game connects c and d with other runs."
    above = [[0, 2, 0, 0], [3, 0, 0, 0], [4, 4, 0, 1], [4, 4, 2, 0]]
    assert strengths("abcd", above).notes[0] == "c and d won every game against the other runs."


def test_a_run_alone_is_its_own_reference():
    assert strengths(["base"], [[0]]) == ({"base": (0, None, None)}, "base", [])


def test_impossible_wins_are_refused():
    for wins, words in (
        ([[0, 1]], "square matrix"),
        ([[0, -1], [1, 0]], "not negative"),
        ([[0, np.nan], [1, 0]], "finite"),
    ):
        with pytest.raises(ValueError, match=words):
            strengths("ab", wins)
