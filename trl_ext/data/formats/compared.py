"""Read two responses and a verdict: chatbot arenas (arXiv:2403.04132), rated responses, annotation tools.

The responses are `response_a` and `response_b` (or another of `RESPONSES`, ending in a and b, 1 and 2, or 0 and 1). The verdict
is a column such as `winner`, a number for each response such as `score_a` and `score_b`, where higher is better, or one signed
number such as `overall_preference`, which is negative if the first response is better. The better response is read as `chosen`
and the other as `rejected`; the format that then fits reads the rest of the row.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

from trl_ext.data.formats.inner import match_pair
from trl_ext.data.formats.match import Match
from trl_ext.data.formats.row_outcome import Drop, Reason
from trl_ext.data.formats.sample import Row, Sample
from trl_ext.data.formats.scores import as_score

NAME = "compared"
TITLE = "two responses and a verdict"
NEEDS = (
    "response_a and response_b, with winner (a, b or tie), with score_a and score_b, or with overall_preference (negative: a is "
    "better); 1 and 2 instead of a and b also work"
)

RESPONSES = ("response", "answer", "completion", "output", "conversation", "candidate", "option", "human_ref")
WINNER = ("winner", "preference", "preferred", "better", "better_response_id", "choice")
# HelpSteer2 and HelpSteer3 count from −3 (the first response is much better) to 3 (the second one is).
SIGNED = ("overall_preference", "preference_strength")
# One column for each response; `winner_model_a` and `winner_model_b` are 1 and 0, both 0 in a tie.
SCORES = ("score", "rating", "reward", "winner_model")
ENDINGS = (("_a", "_b"), ("_1", "_2"), ("_0", "_1"), ("1", "2"))
BEFORE_ENDING = {*RESPONSES, "model", "assistant", "choice"}
"""Words that a winner may begin with. Other names, such as those of models, may end in a number of their own."""
TIES = ("tie", "draw", "both", "neither", "equal", "same", "none")

NAMED = ("response_a", "response_b", "winner", "score_a", "score_b")
"""One spelling of each column, for error messages."""
READ = (*WINNER, *SIGNED, *(stem + end for stem in (*RESPONSES, *SCORES) for ends in ENDINGS for end in ends))


def match(sample: Sample) -> Match | None:
    is_labelled = sample.has("completion") and sample.label() is not None
    if sample.has("chosen") or sample.has("rejected") or is_labelled:
        return None
    for stem in RESPONSES:
        for ends in ENDINGS:
            responses = tuple(stem + end for end in ends)
            alike = [column for column in sample.columns if re.fullmatch(rf"{stem}_?[0-9a-h]", column)]
            if sample.has(*responses) and len(alike) == 2:  # with three responses, no two of them are the pair
                return _match_responses(sample, responses, ends)
    return None


def _match_responses(sample: Sample, responses: tuple[str, ...], ends: tuple[str, str]) -> Match | None:
    verdict = _find_verdict(sample, responses, ends)
    if verdict is None:
        return None
    columns, scores, how = verdict
    pairs = [(row, tuple(map(row.get, responses))) for row in sample.rows]
    inner = match_pair(sample, (*responses, *columns), pairs)
    if inner is None:
        return None
    return dataclasses.replace(
        inner,
        format=NAME,
        title=f"{responses[0]} and {responses[1]}, compared by {how}",
        scored=functools.partial(_scored, responses=responses, columns=columns, scores=scores),
        has_scores=columns[0] not in WINNER,
    )


def _find_verdict(
    sample: Sample, responses: tuple[str, ...], ends: tuple[str, str]
) -> tuple[tuple[str, ...], Callable[..., tuple[float, float]], str] | None:
    """The columns of the verdict, a function from their values to a score for each response, and a description."""
    if (signed := next((name for name in SIGNED if name in sample.columns), None)) is not None:
        return (signed,), _signed, f"`{signed}` (negative: {responses[0]} is better)"
    if (winner := next((name for name in WINNER if name in sample.columns), None)) is not None:
        names = tuple(end.removeprefix("_") for end in ends)
        return (winner,), functools.partial(_by_name, names=names), f"`{winner}`"
    for stem in SCORES:
        scores = tuple(stem + end for end in ends)
        if sample.has(*scores):
            return scores, _by_score, f"`{scores[0]}` and `{scores[1]}` (higher is better)"
    return None


def _scored(
    row: Row, *, responses: tuple[str, ...], columns: tuple[str, ...], scores: Callable[..., tuple[float, float]]
) -> list[tuple[Any, float]]:
    values = [row[name] for name in columns]
    if any(value is None or value != value for value in values):
        raise Drop(Reason.NULL)
    return list(zip(map(row.get, responses), scores(*values), strict=True))


def _by_name(winner: Any, names: tuple[str, str]) -> tuple[float, float]:
    first = named_winner(winner, names) == 0
    return (math.inf, 0.0) if first else (0.0, math.inf)  # apart by more than any margin


def named_winner(winner: Any, names: tuple[str, str]) -> int:
    """0 or 1: the response that a winner names by its ending: `a`, `A`, `model_a`, `Response A`, or 1 for response_1.

    For response_a and response_b, a bare 0 or 1 is not accepted: datasets differ in which of the two it means.

    Raises:
        Drop: It is a tie, or names neither.
    """
    if isinstance(winner, float) and winner.is_integer():
        winner = int(winner)
    words = str(winner).strip().lower().replace("_", " ").split()
    if words and words[0].strip("()") in TIES:
        raise Drop(Reason.TIE)
    ending = words[-1].removesuffix(".0") if words else None
    if isinstance(winner, bool) or ending not in names or not BEFORE_ENDING.issuperset(words[:-1]):
        raise Drop(Reason.BAD_WINNER)
    return names.index(ending)


def _signed(preference: Any) -> tuple[float, float]:
    return -as_score(preference), 0.0


def _by_score(*scores: Any) -> tuple[float, float]:
    first, second = map(as_score, scores)
    return first, second
