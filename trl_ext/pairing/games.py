"""Rank the completions of one prompt by comparisons of two: which two are compared, and scores from who won."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trl_ext.judging.strengths import count_wins, strengths

Pair = tuple[int, int]

PRIOR = 0.5
"""Wins that each of two compared completions has in advance. With half a win each, the estimated log-odds of a single comparison
have almost no bias of first order (Haldane 1956; Firth 1993, Biometrika 80:27), and all strengths are finite."""


def all_pairs(n: int) -> int:
    """The number of pairs of n completions."""
    return n * (n - 1) // 2


def default_limit(n: int) -> int:
    """Comparisons per prompt unless the user gives a number: each completion is compared with four others."""
    return min(2 * n, all_pairs(n))


def schedule(n: int, limit: int) -> list[Pair]:
    """The pairs of n completions that are compared, `limit` of them at most.

    Completions stand in a circle. Neighbours are compared first, then those two places apart, and so on. Every completion is
    compared equally often, up to the last, incomplete turn of the circle. From n comparisons on, all are connected.
    """
    pairs: dict[Pair, None] = {}
    for distance in range(1, n // 2 + 1):
        for i in range(n):
            j = (i + distance) % n
            pairs.setdefault((min(i, j), max(i, j)))
    return [*pairs][:limit]


def scores_of(n: int, results: Mapping[Pair, float]) -> list[float | None]:
    """Bradley–Terry strengths in log-odds, with mean 0 over the completions that have one.

    If every two were compared, the order is that of the number of wins, a tie counting one half.

    Args:
        n: Number of completions.
        results: The score of the first completion of a pair against the second: 1 for a win, ½ for a tie, 0 for a loss, or what
            two orders average to; NaN for an unclear verdict, which is left out.

    Returns:
        A strength per completion; `None` for one that no comparison connects with the largest group.
    """
    clear = {pair: score for pair, score in results.items() if not math.isnan(score)}
    if not clear:
        return [None] * n
    names = [str(i) for i in range(n)]
    wins = count_wins(names, {(str(i), str(j)): [score] for (i, j), score in clear.items()})
    for i, j in clear:
        wins[i, j] += PRIOR
        wins[j, i] += PRIOR
    found = strengths(names, wins).values
    values = [None if (estimate := found[name]) is None else estimate.value for name in names]
    centre = math.fsum(known := [value for value in values if value is not None]) / len(known)
    return [None if value is None else value - centre for value in values]
