"""Read several completions of a prompt with scores or ranks: UltraFeedback (arXiv:2310.01377) as published, Nectar, reward model output.

The completions are

- a list of objects that hold a text and a score (`score`, `rating`, …; higher is better), ratings of several aspects, whose mean is
  the score, or a `rank` (1 is best);
- a list of texts or messages, with a list of scores or ranks in another column, or with the position of the best one (`choice`);
- more than two columns `response_1`, `response_2`, …, with `score_1`, `score_2`, ….

`pairing` chooses which of them are compared. The format that then fits reads the rest of the row.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

from trl_ext.data.formats import compared
from trl_ext.data.formats.inner import match_pair
from trl_ext.data.formats.match import Match
from trl_ext.data.formats.messages import kind
from trl_ext.data.formats.row_outcome import Drop, Reason
from trl_ext.data.formats.sample import Row, Sample, as_list
from trl_ext.data.formats.scores import as_score

NAME = "ranked"
TITLE = "completions with scores or ranks"
NEEDS = (
    "completions (or responses, answers, generations) as a list of objects with a text and a score or rank, or as a list with "
    "scores or ranks in a list beside it"
)

COMPLETIONS = (
    *(
        "completions",
        "responses",
        "answers",
        "generations",
        "candidates",
        "outputs",
        "replies",
        "samples",
        "options",
        "choices",
    ),
    *("summaries", "all_responses", "all_generated_responses", "new_generations"),
)
SCORES = ("scores", "ratings", "rewards", "score", "rating", "reward", "all_rm_scores", "rm_scores", "reward_scores")
RANKS = ("ranks", "rank")
CHOICES = ("choice", "best", "best_index", "chosen_index")

TEXT = (
    "response",
    "answer",
    "completion",
    "text",
    "content",
    "output",
    "generation",
    "generated_text",
    "reply",
    "summary",
    "messages",
)
"""Keys of an object's text, in order of preference."""
SCORE = (
    # UltraFeedback's own `overall_score` is wrong in some rows, where 1 was written as 10.
    *(
        "fine-grained_score",
        "fine_grained_score",
        "overall_score",
        "score",
        "rating",
        "reward",
        "average_rating",
        "avg_rating",
    ),
    *("pm_score", "quality", "points", "upvotes"),
)
RANK = ("rank",)
ASPECTS = ("annotations", "ratings", "scores", "attributes")
"""Keys of an object that rates several aspects: ``{"helpfulness": {"Rating": "4"}, …}`` or ``{"helpfulness": 4, …}``."""

NAMED = ("completions", "scores", "ranks")
READ = (*COMPLETIONS, *SCORES, *RANKS, *CHOICES)

Scored = list[tuple[Any, float]]


@dataclasses.dataclass(frozen=True)
class Reading:
    """How to read the completions of a row: the columns, a function that raises Drop, and what compares them, in words."""

    columns: tuple[str, ...]
    scored: Callable[[Row], Scored]
    how: str
    has_scores: bool = True


def match(sample: Sample) -> Match | None:
    is_labelled = sample.has("completion") and sample.label() is not None
    if sample.has("chosen", "rejected") or is_labelled:
        return None
    for reading in (_objects(sample), _parallel(sample), _columns(sample)):
        if reading is None:
            continue
        pairs = [(row, two) for row in sample.rows if (two := _two(reading.scored, row)) is not None]
        inner = match_pair(sample, reading.columns, pairs) if pairs else None
        if inner is not None:
            return dataclasses.replace(
                inner,
                format=NAME,
                title=f"completions in {_listed(reading.columns)}, compared by {reading.how}",
                scored=reading.scored,
                has_scores=reading.has_scores,
                has_many=True,
            )
    return None


def _two(scored: Callable[[Row], Scored], row: Row) -> tuple[Any, Any] | None:
    """Two completions of the row, whatever their scores."""
    try:
        found = scored(row)
    except Drop:
        return None
    return (found[0][0], found[-1][0]) if len(found) > 1 else None


def _listed(columns: tuple[str, ...]) -> str:
    texts = [f"`{name}`" for name in columns]
    return texts[0] if len(texts) < 3 else f"{texts[0]} to {texts[len(texts) // 2 - 1]}"


# A list of objects.


def _objects(sample: Sample) -> Reading | None:
    for column in COMPLETIONS:
        items = [item for row in sample.rows for item in as_list(row.get(column)) or [] if isinstance(item, dict)]
        keys = {key for item in items for key, value in item.items() if value is not None}
        text = next((key for key in TEXT if key in keys), None)
        if text is None or kind(items) == "messages":
            continue
        score = next((key for key in SCORE if key in keys and any(_is_score(item.get(key)) for item in items)), None)
        rank = next((key for key in RANK if key in keys), None)
        aspects = next((key for key in ASPECTS if any(_mean(item.get(key)) is not None for item in items)), None)
        choice = next((name for name in CHOICES if name in sample.columns), None)
        if score is not None:
            value, how = functools.partial(_number, key=score), f"their `{score}` (higher is better)"
        elif rank is not None:
            value, how = functools.partial(_negative, key=rank), f"their `{rank}` (1 is best)"
        elif aspects is not None:
            value, how = functools.partial(_mean_of, key=aspects), f"the mean of their `{aspects}` (higher is better)"
        elif choice is not None:
            read = functools.partial(_chosen, column=column, choice=choice, text=text)
            return Reading((column, choice), read, f"`{choice}` (position of the best, from 0)", has_scores=False)
        else:
            continue
        return Reading((column,), functools.partial(_scored_objects, column=column, text=text, score=value), how)
    return None


def _scored_objects(row: Row, *, column: str, text: str, score: Callable[[dict], float | None]) -> Scored:
    items = as_list(row.get(column))
    if items is None:
        raise Drop(Reason.NULL if row.get(column) is None else Reason.TOO_FEW_OUTPUTS)
    found = [(item.get(text), score(item)) for item in items if isinstance(item, dict)]
    return [(value, number) for value, number in found if value is not None and number is not None]


def _number(item: dict, *, key: str) -> float | None:
    return float(item[key]) if _is_score(item.get(key)) else None


def _negative(item: dict, *, key: str) -> float | None:
    return -float(item[key]) if _is_score(item.get(key)) else None


def _mean_of(item: dict, *, key: str) -> float | None:
    return _mean(item.get(key))


def _mean(aspects: Any) -> float | None:
    """The mean rating of the aspects that have one."""
    if not isinstance(aspects, dict):
        return None
    ratings = [_rating(value) for value in aspects.values()]
    known = [float(rating) for rating in ratings if _is_score(rating)]
    return math.fsum(known) / len(known) if known else None


def _rating(value: Any) -> Any:
    if isinstance(value, dict):
        return next((value[key] for key in ("Rating", "rating", "Score", "score") if key in value), None)
    return value


def _is_score(value: Any) -> bool:
    try:
        as_score(value)
    except Drop:
        return False
    return not isinstance(value, bool)


# A list of texts or messages, and another of scores.


def _parallel(sample: Sample) -> Reading | None:
    for column in COMPLETIONS:
        if not any(_is_completion(item) for row in sample.rows for item in as_list(row.get(column)) or []):
            continue
        numbers = [name for name in (*SCORES, *RANKS) if any(_are_scores(row.get(name)) for row in sample.rows)]
        choice = next((name for name in CHOICES if name in sample.columns), None)
        if numbers:
            ranks = numbers[0] in RANKS
            how = f"`{numbers[0]}` ({'1 is' if ranks else 'higher is'} {'best' if ranks else 'better'})"
            sign = -1.0 if ranks else 1.0
            return Reading(
                (column, numbers[0]),
                functools.partial(_scored_lists, column=column, numbers=numbers[0], sign=sign),
                how,
            )
        if choice is not None:
            read = functools.partial(_chosen, column=column, choice=choice, text=None)
            return Reading((column, choice), read, f"`{choice}` (position of the best, from 0)", has_scores=False)
    return None


def _is_completion(item: Any) -> bool:
    return kind(item) in ("text", "messages")


def _are_scores(value: Any) -> bool:
    return any(_is_score(item) for item in as_list(value) or [])


def _scored_lists(row: Row, *, column: str, numbers: str, sign: float) -> Scored:
    texts, scores = as_list(row.get(column)), as_list(row.get(numbers))
    if texts is None or scores is None:
        raise Drop(Reason.NULL if None in (row.get(column), row.get(numbers)) else Reason.TOO_FEW_OUTPUTS)
    if len(texts) != len(scores):
        raise Drop(Reason.UNEQUAL_LISTS)
    both = zip(texts, scores, strict=True)
    return [(text, sign * float(score)) for text, score in both if text is not None and _is_score(score)]


def _chosen(row: Row, *, column: str, choice: str, text: str | None) -> Scored:
    """The chosen completion before all others, which are equal."""
    items, best = as_list(row.get(column)), row.get(choice)
    if items is None or best is None or best != best:
        raise Drop(Reason.NULL)
    values = [item.get(text) if text is not None and isinstance(item, dict) else item for item in items]
    try:
        place = int(best)
    except (TypeError, ValueError):
        raise Drop(Reason.BAD_CHOICE) from None
    if isinstance(best, bool) or place != float(best) or not 0 <= place < len(values):
        raise Drop(Reason.BAD_CHOICE)
    return [(value, math.inf if i == place else 0.0) for i, value in enumerate(values) if value is not None]


# A column for each completion.


def _columns(sample: Sample) -> Reading | None:
    for stem in compared.RESPONSES:
        found = {m[1]: name for name in sample.columns if (m := re.fullmatch(rf"{stem}(_?(?:\d|[a-h]))", name))}
        for score in compared.SCORES:
            ends = [end for end in found if f"{score}{end}" in sample.columns]
            if len(ends) > 2 and len(ends) == len(found):
                texts, scores = tuple(found[end] for end in ends), tuple(f"{score}{end}" for end in ends)
                return Reading(
                    (*texts, *scores),
                    functools.partial(_scored_columns, texts=texts, scores=scores),
                    f"`{scores[0]}` to `{scores[-1]}` (higher is better)",
                )
    return None


def _scored_columns(row: Row, *, texts: tuple[str, ...], scores: tuple[str, ...]) -> Scored:
    both = [(row.get(text), row.get(score)) for text, score in zip(texts, scores, strict=True)]
    return [(text, float(score)) for text, score in both if text is not None and _is_score(score)]
