"""Length-controlled win rates of simulated judges, against an independent fit, and the coverage of their interval."""

import math
import re

import numpy as np
import pytest

from trl_ext.judging.length_control import length_controlled


def judged(generator, n, quality=0.0, orders=1):
    """Scores and lengths of two policies, the first 30 % longer, under a judge that likes length as the model says."""
    lengths, others = generator.lognormal(5, 0.5, n) * 1.3, generator.lognormal(5, 0.5, n)
    x = np.tanh((lengths - others) / (lengths - others).std(ddof=1))
    p = 1 / (1 + np.exp(-quality - 2 * x))
    return (generator.random((orders, n)) < p).mean(0), lengths, others


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def bisect(function, low=-40.0, high=40.0):
    """The root of a decreasing function."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return low


def fit_by_nested_bisection(y, x):
    """The θ and φ that solve Σ(y − p) = 0 and Σ(y − p)x = 0, one inside the other."""

    def theta(phi):
        return bisect(lambda theta: sum(t - sigmoid(theta + phi * u) for t, u in zip(y, x, strict=True)))

    def slope(phi):
        inner = theta(phi)
        return sum((t - sigmoid(inner + phi * u)) * u for t, u in zip(y, x, strict=True))

    phi = bisect(slope)
    return theta(phi), phi


def test_equal_quality_and_30_percent_longer_is_controlled_to_one_half():
    scores, lengths, others = judged(np.random.default_rng(0), 600)
    n = len(scores)
    assert scores.mean() - 1.96 * math.sqrt(0.25 / n) > 0.5  # the raw rate is above one half
    found = length_controlled(scores, lengths, others)
    assert found.rate.low <= 0.5 <= found.rate.high
    assert found.length_effect.low > 0  # the judge likes length


@pytest.mark.parametrize(("n", "quality", "orders"), [(100, 0.0, 1), (100, 1.5, 1), (40, 0.0, 2)])
def test_rate_and_effect_are_covered_as_often_as_promised(n, quality, orders):
    generator = np.random.default_rng(1)
    found = [length_controlled(*judged(generator, n, quality, orders)) for _ in range(400)]
    for name, true in (("rate", sigmoid(quality)), ("length_effect", 2)):
        covered = sum(getattr(each, name).low <= true <= getattr(each, name).high for each in found)
        assert covered / 400 == pytest.approx(0.95, abs=0.03)  # 0.011 is a standard error


@pytest.mark.parametrize("orders", [1, 2])
def test_it_agrees_with_a_fit_by_nested_bisection(orders):
    scores, lengths, others = judged(np.random.default_rng(2), 25, 0.3, orders)
    difference = lengths - others
    mean = sum(difference) / 25
    deviation = math.sqrt(sum((each - mean) ** 2 for each in difference) / 24)
    theta, phi = fit_by_nested_bisection(scores, [math.tanh(each / deviation) for each in difference])
    found = length_controlled(scores, lengths, others)
    assert found.rate.value == pytest.approx(sigmoid(theta), abs=1e-8)
    assert found.length_effect.value == pytest.approx(phi, abs=1e-7)


def test_exchanging_the_sides_and_the_unit_of_length_change_nothing():
    scores, lengths, others = judged(np.random.default_rng(3), 60, 0.5)
    found, mirrored = length_controlled(scores, lengths, others), length_controlled(1 - scores, others, lengths)
    assert found.rate == pytest.approx([1 - mirrored.rate[i] for i in (0, 2, 1)])
    assert found.length_effect == pytest.approx(mirrored.length_effect)
    assert length_controlled(scores, lengths / 4, others / 4).rate == pytest.approx(found.rate)


def test_an_unclear_prompt_is_left_out():
    scores, lengths, others = judged(np.random.default_rng(4), 60)
    more = length_controlled([*scores, math.nan], [*lengths, 9.0], [*others, 900.0])
    assert more == length_controlled(scores, lengths, others)


def test_ties_or_equal_lengths_need_no_control():
    ties = length_controlled([0.5] * 10, range(10), [3] * 10)
    assert ties.rate.value == 0.5 and ties.rate.low < 0.5 < ties.rate.high
    same = length_controlled([1, 1, 0, 0.5], [7, 8, 9, 10], [7, 8, 9, 10])
    assert same.rate.value == 2.5 / 4 and same.length_effect is None


@pytest.mark.parametrize(
    ("scores", "differences", "reason"),
    [
        ([1, 1, 1, 0, 0], [5, 4, 3, 2, -1], "separates wins from losses: .* larger"),
        ([0, 0, 1, 1], [5, 4, 3, 2], "separates wins from losses: .* smaller"),
        ([1, 0.5, 0.5, 0], [5, 2, 2, -1], "separates wins from losses"),  # with ties at the border
        ([1, 1, 1], [1, 2, 3], "A won every prompt"),
        ([0, 0, 0], [1, 2, 3], "A lost every prompt"),
        ([1, 0, 1, 0], [3, 3, 3, 3], "almost equal"),
        ([1, 0, 1, 0, 1], [900, 901, 902, 903, 904], "almost equal"),  # tanh is 1 on each
        ([1, 0], [3, 1], "at least 3 prompts"),
        ([math.nan] * 3, [1, 2, 3], "No prompt has a clear verdict"),
        ([0.75, 0.75, 0.25, 0.25], [3, 3, -3, -3], "fits every score exactly"),
        ([0.75, 0.25, 0.75, 0.25, 0.5], [0, 0, 0, 0, 50], "One prompt alone determines the effect"),
    ],
)
def test_without_a_finite_estimate_there_is_a_sentence_and_no_number(scores, differences, reason):
    found = length_controlled(scores, np.add(differences, 100), [100] * len(scores))
    assert found.rate is None and found.length_effect is None
    assert re.search(reason, found.undefined), found.undefined


def test_scores_and_lengths_of_different_numbers_are_refused():
    with pytest.raises(ValueError, match="scores and of lengths differ: 2 and 3"):
        length_controlled([1, 0], [1, 2, 3], [1, 2, 3])
