"""Sentences for columns that are not recognised: what is there, what is needed, what to write."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from trl_ext.errors import UserError

from .formats import CHOICES, FORMATS, PASSED, READ, Sample

# Names seen in published datasets; only used to fill in a suggestion that the user confirms.
GUESSES = {
    "prompt": ("question", "instruction", "query", "input", "context", "user", "problem", "post", "source"),
    "chosen": (
        "good",
        "better",
        "preferred",
        "accepted",
        "winner",
        "best",
        "positive",
        "pos",
        "win",
        "response_w",
    ),
    "rejected": (
        "bad",
        "worse",
        "dispreferred",
        "declined",
        "loser",
        "worst",
        "negative",
        "neg",
        "lose",
        "response_l",
    ),
    "completion": ("response", "answer", "output", "reply", "text", "generation"),
    "label": (
        "liked",
        "is_good",
        "desirable",
        "verdict",
        "feedback",
        "thumbs",
        "preference",
        "rating",
        "score",
    ),
}


def unrecognised(found: Sample, source: str, format: str) -> UserError:
    """The error for a dataset whose columns fit no format, or not the one asked for."""
    columns = ", ".join(found.columns) or "none"
    odd = [f"`{c}` holds {_type(found, c)}" for c in READ if found.kind(c) in ("other", "list")]
    odd_text = f" ({'; '.join(odd)}: neither text nor messages)" if odd else ""
    empty = [f"`{c}`" for c in READ if c in found.columns and found.kind(c) is None]
    empty_text = f" ({', '.join(empty)} null in every row looked at)" if empty else ""
    there = f"{source}: its columns ({columns}){odd_text}{empty_text}"
    if format != "auto":
        module = next(module for module in FORMATS if format == module.NAME)
        return UserError(
            f"{there} are not those of `dataset_format: {format}`, which needs {module.NEEDS}. Leave "
            "`dataset_format` out to have it recognised, or name the columns with `dataset_columns`."
        )
    return UserError(
        f"{there} are not recognised; needed are prompt, chosen and rejected for pairs, or prompt, "
        "completion and label for single answers. Say in the recipe which are which:\n"
        f"{suggestion(found.columns)}"
    )


def suggestion(columns: tuple[str, ...]) -> str:
    """The `dataset_columns:` lines to add, filled in where a column's name tells."""
    pairs, singles = (
        _guess(("prompt", "chosen", "rejected"), columns),
        _guess(("prompt", "completion", "label"), columns),
    )
    best = max(pairs, singles, key=lambda mapping: sum(column is not None for column in mapping.values()))
    lines = [f"  {place}: {column or '<the column with it>'}" for place, column in best.items()]
    return "\n".join(["dataset_columns:", *lines])


def check_mapping(mapping: dict[str, str], columns: tuple[str, ...], source: str) -> None:
    """Check a `dataset_columns` mapping {name known here: column of the dataset} against the dataset.

    Raises:
        UserError: every wrong entry, with the nearest right one.
    """
    known = (*READ, *PASSED)
    problems = []
    for place, column in mapping.items():
        if place not in known:
            problems.append(
                f"dataset_columns: `{place}` is not a name known here{near(place, known)}; known are "
                f"{', '.join(known)}."
            )
        if not isinstance(column, str) or column not in columns:
            problems.append(
                f"dataset_columns: {source} has no column `{column}` for `{place}`"
                f"{near(str(column), columns)}; it has {', '.join(columns)}."
            )
    twice = {column for column in mapping.values() if list(mapping.values()).count(column) > 1}
    problems += [f"dataset_columns: column `{column}` is named twice; each can be one thing only." for column in twice]
    if problems:
        raise UserError(problems)


def check_format(format: str) -> None:
    """Raises a UserError if `format` is not "auto" or the name of a format."""
    if format not in CHOICES:
        raise UserError(f"dataset_format: `{format}` is not one of {', '.join(CHOICES)}{near(str(format), CHOICES)}.")


def near(word: str, known: Iterable[str]) -> str:
    """A question with the nearest known word, or nothing."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean `{nearest[0]}`?)" if nearest else ""


def _guess(places: tuple[str, ...], columns: tuple[str, ...]) -> dict[str, str | None]:
    free = list(columns)
    result: dict[str, str | None] = {}
    for place in places:
        names = (place, *GUESSES[place])
        exact = [c for name in names for c in free if c.lower() == name]
        partly = [c for name in names if len(name) > 3 for c in free if name in c.lower()]
        result[place] = next(iter(exact + partly), None)
        if result[place] is not None:
            free.remove(result[place])
    return result


def _type(found: Sample, column: str) -> str:
    return type(next(row[column] for row in found.rows if row.get(column) is not None)).__name__
