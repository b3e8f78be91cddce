"""The best and the worst of each prompt's completions, against a loop."""

import math

import pytest
import torch

from trl_ext.rl.pairs import best_and_worst


def by_hand(scores: list[float], generations: int) -> list[tuple[int, int] | None]:
    """Places of the best and the worst, the first of equals; `None` without a preference."""
    found = []
    for start in range(0, len(scores), generations):
        known = [i for i in range(start, start + generations) if not math.isnan(scores[i])]
        best, worst = (choose(known, key=scores.__getitem__, default=start) for choose in (max, min))
        found.append((best, worst) if known and scores[best] > scores[worst] else None)
    return found


@pytest.mark.parametrize("generations", [2, 3, 5])
def test_as_a_loop_finds_them(generations):
    generator = torch.Generator().manual_seed(generations)
    scores = torch.randint(-1, 2, (60 * generations,), generator=generator).double()
    scores[torch.rand(len(scores), generator=generator) < 0.3] = torch.nan
    places, has_preference = best_and_worst(scores, generations)
    expected = by_hand(scores.tolist(), generations)
    assert {None} < set(expected)
    assert [
        tuple(pair) if kept else None for pair, kept in zip(places.tolist(), has_preference, strict=True)
    ] == expected


@pytest.mark.parametrize("scores", [[1.0, 1.0], [math.nan, 1.0], [math.nan] * 2, [-math.inf] * 2])
def test_no_preference(scores):
    places, has_preference = best_and_worst(torch.tensor([0.0, 1.0, *scores]), 2)
    assert has_preference.tolist() == [True, False]
    assert places[0].tolist() == [1, 0] and ((places[1] >= 2) & (places[1] < 4)).all()
