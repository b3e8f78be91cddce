"""Read two responses and a verdict: chatbot arenas (arXiv:2403.04132), rated responses, annotation tools.

The responses are `response_a` and `response_b` (or another of `RESPONSES`, ending in a and b, 1 and 2, or 0 and 1). The verdict
is a column such as `winner`, or a number for each response such as `score_a` and `score_b`, where higher is better. The better
response is read as `chosen` and the other as `rejected`; the format that then fits reads the rest of the row.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

from trl_ext.data.formats import alpaca, hh, orca, parallel_turns, sharegpt, trl_types
from trl_ext.data.formats.match import Match
from trl_ext.data.formats.row_outcome import Drop, Note, Reason
from trl_ext.data.formats.sample import Row, Sample

NAME = "compared"
TITLE = "two responses and a verdict"
NEEDS = "response_a and response_b, with winner (a, b or tie) or with score_a and score_b; 1 and 2 instead of a and b also work"

RESPONSES = ("response", "answer", "completion", "output", "conversation")
WINNER = ("winner", "preference", "preferred", "better", "better_response_id", "choice")
# One column for each response; `winner_model_a` and `winner_model_b` are 1 and 0, both 0 in a tie.
SCORES = ("score", "rating", "reward", "winner_model")
ENDINGS = (("_a", "_b"), ("_1", "_2"), ("_0", "_1"), ("1", "2"))
BEFORE_ENDING = {*RESPONSES, "model", "assistant", "candidate", "option", "choice"}
"""Words that a winner may begin with. Other names, such as those of models, may end in a number of their own."""
TIES = ("tie", "draw", "both", "neither", "equal", "same", "none")

SIDES = ("chosen", "rejected")
EXAMPLE = {"role": "user", "content": ""}
"""A message as `parallel_turns.joined` makes them."""

NAMED = ("response_a", "response_b", "winner", "score_a", "score_b")
"""One spelling of each column, for error messages."""
READ = (*WINNER, *(stem + end for stem in (*RESPONSES, *SCORES) for ends in ENDINGS for end in ends))

INNER = (sharegpt, hh, orca, alpaca, trl_types)
"""Formats that may read the row once its responses are called chosen and rejected."""


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
    verdict = _find_verdict(sample, ends)
    if verdict is None:
        return None
    columns, side, how = verdict
    rest = [name for name in sample.columns if name not in (*responses, *columns)]
    rows = [{name: row.get(name) for name in rest} | _as_pair(row, responses) for row in sample.rows]
    in_turns = "prompt" in rest and parallel_turns.are_in(rows, ("prompt", *SIDES))
    if in_turns:
        rest.remove("prompt")
        rows = [{name: [EXAMPLE] for name in SIDES}]
    seen = Sample((*rest, *SIDES), rows)
    inner = next((found for module in INNER if (found := module.match(seen)) is not None), None)
    if inner is None or not inner.paired:
        return None
    return dataclasses.replace(
        inner,
        format=NAME,
        title=f"{responses[0]} and {responses[1]}, compared by {how}",
        read=functools.partial(
            _read, read=inner.read, responses=responses, columns=columns, side=side, in_turns=in_turns
        ),
        columns=(*["prompt"] * in_turns, *(name for name in inner.columns if name in rest), *responses, *columns),
    )


def _find_verdict(sample: Sample, ends: tuple[str, str]) -> tuple[tuple[str, ...], Callable[..., int], str] | None:
    """The columns of the verdict, a function from their values to the better response (0 or 1), and a description."""
    if (winner := next((name for name in WINNER if name in sample.columns), None)) is not None:
        names = tuple(end.removeprefix("_") for end in ends)
        return (winner,), functools.partial(_by_name, names=names), f"`{winner}`"
    for stem in SCORES:
        scores = tuple(stem + end for end in ends)
        if sample.has(*scores):
            return scores, _by_score, f"`{scores[0]}` and `{scores[1]}` (higher is better)"
    return None


def _as_pair(row: Row, responses: tuple[str, ...]) -> Row:
    return dict(zip(SIDES, map(row.get, responses), strict=True))


def _read(
    row: Row,
    notes: set[Note],
    *,
    read: Callable[[Row, set[Note]], Row],
    responses: tuple[str, ...],
    columns: tuple[str, ...],
    side: Callable[..., int],
    in_turns: bool,
) -> Row:
    values = [row[name] for name in columns]
    if any(value is None or value != value for value in values):
        raise Drop(Reason.NULL)
    rest = {name: value for name, value in row.items() if name not in (*responses, *columns)}
    pair = rest | _as_pair(row, responses if side(*values) == 0 else responses[::-1])
    return read(parallel_turns.joined(pair, "prompt", SIDES) if in_turns else pair, notes)


def _by_name(winner: Any, names: tuple[str, str]) -> int:
    """The response that a winner names by its ending: `a`, `A`, `model_a`, `Response A`, or 1 for response_1.

    For response_a and response_b, a bare 0 or 1 is not accepted: datasets differ in which of the two it means.
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


def _by_score(*scores: Any) -> int:
    try:
        first, second = map(float, scores)
    except (TypeError, ValueError):
        raise Drop(Reason.BAD_SCORE) from None
    if math.isnan(first) or math.isnan(second):
        raise Drop(Reason.NULL)
    if first == second:
        raise Drop(Reason.TIE)
    return 0 if first > second else 1
