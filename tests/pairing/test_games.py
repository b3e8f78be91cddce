"""Which completions are compared, and their strengths against closed forms."""

import itertools
import math
import random
from collections import Counter

import pytest

from trl_ext.pairing import games


@pytest.mark.parametrize("n", range(2, 10))
def test_every_completion_plays_equally_often(n):
    pairs = games.schedule(n, games.all_pairs(n))
    assert sorted(pairs) == [*itertools.combinations(range(n), 2)]
    ring = games.schedule(n, games.default_limit(n))
    assert len(ring) == len({*ring}) == min(2 * n, n * (n - 1) // 2)
    if n != 5:  # whole turns
        assert len({*Counter(i for pair in ring for i in pair).values()}) == 1


def test_one_comparison_has_the_log_odds_of_haldane():
    # (1 + ½) / (0 + ½) = 3: strengths ± ln 3 / 2.
    assert games.scores_of(2, {(0, 1): 1.0}) == pytest.approx([math.log(3) / 2, -math.log(3) / 2])
    assert games.scores_of(2, {(0, 1): 0.5}) == pytest.approx([0.0, 0.0])
    # Both orders disagree in part: ¾ gives (¾ + ½) / (¼ + ½) = 5/3.
    assert games.scores_of(2, {(0, 1): 0.75}) == pytest.approx([math.log(5 / 3) / 2, -math.log(5 / 3) / 2])


def test_a_round_robin_ranks_by_wins():
    rng = random.Random(0)
    for _ in range(20):
        n = rng.randint(3, 7)
        results = {pair: rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]) for pair in itertools.combinations(range(n), 2)}
        points = [0.0] * n
        for (i, j), score in results.items():
            points[i] += score
            points[j] += 1 - score
        found = games.scores_of(n, results)
        assert math.fsum(found) == pytest.approx(0, abs=1e-9)
        for i, j in itertools.permutations(range(n), 2):
            if points[i] > points[j]:
                assert found[i] > found[j] + 1e-9
            elif points[i] == points[j]:
                assert found[i] == pytest.approx(found[j], abs=1e-6)


def test_unclear_verdicts_are_left_out():
    nan = math.nan
    assert games.scores_of(3, {(0, 1): nan, (1, 2): nan}) == [None, None, None]
    found = games.scores_of(3, {(0, 1): 1.0, (1, 2): nan, (0, 2): nan})
    assert found[:2] == pytest.approx([math.log(3) / 2, -math.log(3) / 2]) and found[2] is None
