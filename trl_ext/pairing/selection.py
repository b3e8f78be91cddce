"""Choose pairs, or labels, from the scores of one prompt's completions. Only numbers: no text and no model."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from enum import Enum
from typing import NamedTuple

from trl_ext.data.formats.pairing import Pairing

Scores = Sequence[float | None]


class Reason(Enum):
    """Why a prompt gives no row."""

    TOO_FEW = "fewer than two different completions with a score"
    EQUAL = "all scores are equal"
    CLOSE = "no two scores differ by more than the margin"


class Pairs(NamedTuple):
    """Pairs of one prompt as positions of its completions, the better one first; without any, the reason."""

    pairs: list[tuple[int, int]]
    reason: Reason | None = None


class Labels(NamedTuple):
    """Labels of one prompt by position of the completion; without any, the reason."""

    labels: dict[int, bool]
    reason: Reason | None = None


def combine(
    scores: Sequence[Scores], weights: Sequence[float], clip: tuple[float, float] | None = None
) -> list[float | None]:
    """The weighted sum of several sources per completion, as the trainers that sample weigh rewards.

    Args:
        scores: Of each source, a score per completion; `None` where the source does not apply.
        weights: One per source.
        clip: Lower and upper limit of the sum.

    Returns:
        The sum over the sources that apply; `None` where none does.
    """
    found: list[float | None] = []
    for of_completion in zip(*scores, strict=True):
        terms = [w * s for w, s in zip(weights, of_completion, strict=True) if s is not None]
        total = math.fsum(terms)
        found.append((min(max(total, clip[0]), clip[1]) if clip else total) if terms else None)
    return found


def usable(texts: Sequence[Hashable], scores: Scores, is_whole: Sequence[bool]) -> list[int]:
    """Positions of the completions that a row may hold: with a score, whole, and the first of those with the same text."""
    first: dict[Hashable, int] = {}
    for i, (text, score, whole) in enumerate(zip(texts, scores, is_whole, strict=True)):
        if score is not None and whole:
            first.setdefault(text, i)
    return [*first.values()]


def choose_pairs(scores: Scores, among: Sequence[int], pairing: Pairing) -> Pairs:
    """Pairs of one prompt.

    Args:
        scores: Of all its completions.
        among: Positions of those that may be paired (`usable`).
        pairing: The best with the worst, or every two; and the margin that their scores differ by more than.
    """
    values = [scores[i] for i in among]
    if len(values) < 2:
        return Pairs([], Reason.TOO_FEW)
    kept, _ = pairing.pairs(values)
    if kept:
        return Pairs([(among[better], among[worse]) for better, worse in kept])
    return Pairs([], Reason.EQUAL if max(values) == min(values) else Reason.CLOSE)


def choose_labels(scores: Scores, among: Sequence[int], margin: float = 0.0, threshold: float | None = None) -> Labels:
    """Labels of one prompt: whether a completion is desirable.

    Args:
        scores: Of all its completions.
        among: Positions of those that may be labelled.
        margin: Without a threshold: a score differs from the mean by more than this, or its completion gets no label.
        threshold: Every score of at least this is desirable, every other undesirable. `None`: scores are compared with the mean
            of all scores of the prompt, repeated completions included, which estimates the policy's expected score.
    """
    if threshold is not None:
        if not among:
            return Labels({}, Reason.TOO_FEW)
        return Labels({i: scores[i] >= threshold for i in among})
    values = [score for score in scores if score is not None]
    if len(values) < 2 or not among:
        return Labels({}, Reason.TOO_FEW)
    if max(values) == min(values):
        return Labels({}, Reason.EQUAL)
    mean = math.fsum(values) / len(values)
    found = {i: scores[i] > mean for i in among if abs(scores[i] - mean) > margin}
    return Labels(found, None if found else Reason.CLOSE)
