"""Sentences for columns that are not recognised: what is there, what is needed, what to write."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from trl_ext.data.files.wrapped_json import list_of_rows
from trl_ext.data.formats import CHOICES, FORMATS, NAMED, PASSED, READ, Sample
from trl_ext.data.formats.labels import threshold, verdicts
from trl_ext.data.formats.match import LABELS
from trl_ext.support.errors import UserError

TEXTS = tuple(name for name in NAMED if name not in (*LABELS, "winner", "score_a", "score_b"))
"""Columns that hold texts or messages."""

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
    "response_a": ("resp_a", "answer_a", "option_a", "candidate_a", "human_ref_a"),
    "response_b": ("resp_b", "answer_b", "option_b", "candidate_b", "human_ref_b"),
    "winner": ("preference", "preferred", "better", "choice", "verdict"),
    "score_a": ("rating_a", "reward_a"),
    "score_b": ("rating_b", "reward_b"),
}


def unrecognised(found: Sample, source: str, format: str) -> UserError:
    """The error for a dataset whose columns fit no format, or not the one asked for.

    Args:
        found: Some rows with all their columns.
        source: What to call the data.
        format: The format asked for, or "auto".
    """
    columns = ", ".join(found.columns) or "none"
    odd = [f"`{c}` holds {_type(found, c)}" for c in TEXTS if found.kind(c) in ("other", "list")]
    odd_text = f" ({'; '.join(odd)}: neither text nor messages)" if odd else ""
    empty = [f"`{c}`" for c in NAMED if c in found.columns and found.kind(c) is None]
    empty_text = f" ({', '.join(empty)} null in every row looked at)" if empty else ""
    there = f"{source}: its columns ({columns}){odd_text}{empty_text}"
    if format != "auto":
        module = next(module for module in FORMATS if format == module.NAME)
        return UserError(
            f"{there} are not those of `dataset_format: {format}`, which needs {module.NEEDS}. Leave "
            "`dataset_format` out to have it recognised, or name the columns with `dataset_columns`."
        )
    if len(found.rows) == 1 and (key := list_of_rows(found.rows[0])) is not None:
        return UserError(
            f"{there} are one row whose `{key}` lists the rows: write that list alone to a file of its own."
        )
    if odd and all(place == column for place, column in _best(found.columns).items()):
        return UserError(f"{there} cannot be read: write prompts and answers as text, or each as a list of messages.")
    scores = [
        column for column in found.columns if column.lower() in GUESSES["label"] and not _is_label(found, column)
    ]
    score_text = f" `{scores[0]}` is no label yet. {threshold(scores[0])}." if scores else ""
    usable = tuple(column for column in found.columns if column not in scores)
    return UserError(
        f"{there} are not recognised; needed are prompt, chosen and rejected for pairs; or prompt, response_a, response_b "
        "and winner, or a score for each, for pairs too; or prompt, completion and label for single "
        f"answers.{score_text} Say in the recipe which are which:\n{suggestion(usable)}"
    )


def suggestion(columns: tuple[str, ...]) -> str:
    """The `dataset_columns:` lines to add, filled in where a column's name tells."""
    lines = [f"  {place}: {column or '<the column with it>'}" for place, column in _best(columns).items()]
    return "\n".join(["dataset_columns:", *lines])


def _best(columns: tuple[str, ...]) -> dict[str, str | None]:
    """The names known here that most of these columns can be given."""
    shapes = (
        ("prompt", "chosen", "rejected"),
        ("prompt", "completion", "label"),
        ("prompt", "response_a", "response_b", "winner"),
        ("prompt", "response_a", "response_b", "score_a", "score_b"),
    )
    return max((_guess(places, columns) for places in shapes), key=_known)


def _known(mapping: dict[str, str | None]) -> int:
    return sum(column is not None for column in mapping.values())


def _is_label(found: Sample, column: str) -> bool:
    values = [row[column] for row in found.rows if isinstance(row.get(column), (str, bool, int, float))]
    try:
        return not values or bool(verdicts(values, column, ""))
    except UserError:
        return False


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
                f"{', '.join((*NAMED, *PASSED))}."
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
