"""Two answers and which is better: chatbot arenas (arXiv:2403.04132), rated answers, and annotation tools.

The answers are `response_a` and `response_b` (or another of `ANSWERS`, ending in a and b, 1 and 2, or 0 and 1). What tells which
is better is a column such as `winner`, or a number for each such as `score_a` and `score_b`, higher being better. The
better one is read as `chosen`, and what is left is read by the format that fits it then.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

from trl_ext.data.formats import alpaca, hh, orca, sharegpt, trl_types, turns
from trl_ext.data.formats.match import Match, Row, Sample
from trl_ext.data.formats.outcome import Drop, Note, Reason

NAME = "compared"
TITLE = "two answers and which is better"
NEEDS = "response_a and response_b, with winner (a, b or tie) or with score_a and score_b; or these ending in 1 and 2"

ANSWERS = ("response", "answer", "completion", "output", "conversation")
WINNER = ("winner", "preference", "preferred", "better", "better_response_id", "choice")
# One column for each answer; `winner_model_a` and `winner_model_b` are 1 and 0, both 0 in a tie.
SCORES = ("score", "rating", "reward", "winner_model")
ENDINGS = (("_a", "_b"), ("_1", "_2"), ("_0", "_1"), ("1", "2"))
BEFORE_ENDING = {*ANSWERS, "model", "assistant", "candidate", "option", "choice"}
"""Words that a winner may begin with; other names, of models above all, may end in a number of their own."""
TIES = ("tie", "draw", "both", "neither", "equal", "same", "none")

SIDES = ("chosen", "rejected")
EXAMPLE = {"role": "user", "content": ""}
"""Of what `turns` makes of a row."""

NAMED = ("response_a", "response_b", "winner", "score_a", "score_b")
"""One spelling of each column, to say what is needed."""
READ = (*WINNER, *(stem + end for stem in (*ANSWERS, *SCORES) for ends in ENDINGS for end in ends))

AFTER = (sharegpt, hh, orca, alpaca, trl_types)
"""Formats that read the prompt, and the answers once they are called chosen and rejected."""


def match(sample: Sample) -> Match | None:
    is_labelled = sample.has("completion") and sample.label() is not None
    if sample.has("chosen") or sample.has("rejected") or is_labelled:
        return None
    for stem in ANSWERS:
        for ends in ENDINGS:
            answers = tuple(stem + end for end in ends)
            alike = [column for column in sample.columns if re.fullmatch(rf"{stem}_?[0-9a-h]", column)]
            if sample.has(*answers) and len(alike) == 2:  # of three answers no two are the pair
                return _between(sample, answers, ends)
    return None


def _between(sample: Sample, answers: tuple[str, ...], ends: tuple[str, str]) -> Match | None:
    judged = _judged(sample, ends)
    if judged is None:
        return None
    columns, side, how = judged
    rest = [name for name in sample.columns if name not in (*answers, *columns)]
    rows = [{name: row.get(name) for name in rest} | _renamed(row, answers) for row in sample.rows]
    in_turns = "prompt" in rest and turns.are_in(rows, ("prompt", *SIDES))
    if in_turns:
        rest.remove("prompt")
        rows = [{name: [EXAMPLE] for name in SIDES}]
    seen = Sample((*rest, *SIDES), rows)
    inner = next((found for module in AFTER if (found := module.match(seen)) is not None), None)
    if inner is None or not inner.paired:
        return None
    return dataclasses.replace(
        inner,
        format=NAME,
        title=f"{answers[0]} and {answers[1]}, the better one told by {how}",
        read=functools.partial(_read, read=inner.read, answers=answers, columns=columns, side=side, in_turns=in_turns),
        columns=(*["prompt"] * in_turns, *(name for name in inner.columns if name in rest), *answers, *columns),
    )


def _judged(sample: Sample, ends: tuple[str, str]) -> tuple[tuple[str, ...], Callable[..., int], str] | None:
    """The columns that tell, what tells the better answer (0 or 1) from their values, and both in words."""
    if (winner := next((name for name in WINNER if name in sample.columns), None)) is not None:
        names = tuple(end.removeprefix("_") for end in ends)
        return (winner,), functools.partial(_by_name, names=names), f"`{winner}`"
    for stem in SCORES:
        scores = tuple(stem + end for end in ends)
        if sample.has(*scores):
            return scores, _by_score, f"`{scores[0]}` and `{scores[1]}` (the higher, the better)"
    return None


def _renamed(row: Row, answers: tuple[str, ...]) -> Row:
    return dict(zip(SIDES, map(row.get, answers), strict=True))


def _read(
    row: Row,
    notes: set[Note],
    *,
    read: Callable[[Row, set[Note]], Row],
    answers: tuple[str, ...],
    columns: tuple[str, ...],
    side: Callable[..., int],
    in_turns: bool,
) -> Row:
    values = [row[name] for name in columns]
    if any(value is None or value != value for value in values):
        raise Drop(Reason.NULL)
    rest = {name: value for name, value in row.items() if name not in (*answers, *columns)}
    pair = rest | _renamed(row, answers if side(*values) == 0 else answers[::-1])
    return read(turns.joined(pair, "prompt", SIDES) if in_turns else pair, notes)


def _by_name(winner: Any, names: tuple[str, str]) -> int:
    """The answer a winner names by its ending: `a`, `A`, `model_a`, `Response A`, or 1 beside response_1 and response_2.

    Beside response_a and response_b a bare 0 or 1 is no name: data differ in which they mean.
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
