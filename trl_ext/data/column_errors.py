"""Explain which columns are missing or wrong: those that are there, those that are needed, and what to write."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from trl_ext.data import column_paths
from trl_ext.data.column_paths import Path
from trl_ext.data.column_suggestions import GUESSES, best_mapping, overlooked_prompt, suggested_lines, values
from trl_ext.data.content import are_ratings
from trl_ext.data.data_shape import looks_like
from trl_ext.data.files.wrapped_json import list_of_rows
from trl_ext.data.formats import CHOICES, FORMATS, NAMED, PASSED, READ, Match, Row, Sample, ranked
from trl_ext.data.formats.labels import threshold
from trl_ext.data.formats.pairing import Pairing
from trl_ext.data.formats.sample import LABELS
from trl_ext.support.errors import UserError

TEXTS = tuple(name for name in NAMED if name not in (*LABELS, *ranked.NAMED, "winner", "score_a", "score_b"))
"""Columns that hold texts or messages."""


def unrecognised(found: Sample, source: str, format: str, given: Mapping[str, str] | None = None) -> UserError:
    """The error for a dataset whose columns fit no format, or not the one that was chosen.

    Args:
        found: Some rows with all their columns.
        source: What to call the data.
        format: The format chosen, or "auto".
        given: The `dataset_columns` that the columns have been named with.
    """
    there = f"{source} has the columns {', '.join(found.columns) or 'none'}"
    odd = [
        f"`{name}` holds values of type {_type(found, name)}"
        for name in TEXTS
        if found.kind(name) in ("other", "list")
    ]
    empty = [f"`{name}`" for name in NAMED if name in found.columns and found.kind(name) is None]
    details = f" {'; '.join(odd)}: neither text nor messages." if odd else ""
    details += f" Null in every sampled row: {', '.join(empty)}." if empty else ""
    if format != "auto":
        module = next(module for module in FORMATS if format == module.NAME)
        return UserError(
            f"{there}, which do not fit `dataset_format: {format}`.{details} That format needs {module.NEEDS}. Remove "
            "`dataset_format` to have the format recognised, or name the columns with `dataset_columns`."
        )
    if len(found.rows) == 1 and (key := list_of_rows(found.rows[0])) is not None:
        return UserError(
            f"{there}: a single row whose `{key}` is the list of rows. Write that list to a file of its own."
        )
    mapping = best_mapping(found)
    if odd and all(found.kind(place) is not None for place in mapping if place in TEXTS) and "prompt" in found.columns:
        return UserError(f"{there}.{details} Write prompts and completions as text, or each as a list of messages.")
    needs = (
        "Pairs need prompt, chosen and rejected; or prompt, response_a, response_b and winner; or prompt, response_a, response_b "
        "and a score for each; or prompt, responses and scores. Labelled completions need prompt, completion and label."
    )
    is_whole = None not in mapping.values()
    shape = "" if is_whole else looks_like(found)
    if shape:
        return UserError(f"{there}, which are not recognised.{details} {needs} {shape}")
    scores = [name for name in found.columns if name.lower() in GUESSES["label"] and are_ratings(values(found, name))]
    score_text = f" `{scores[0]}` is not a label. {threshold(scores[0])}" if scores and not is_whole else ""
    return UserError(
        f"{there}, which are not recognised.{details} {needs}{score_text} Name the columns in the recipe:\n"
        + suggested_lines({place: (given or {}).get(place, column) for place, column in mapping.items()})
    )


def check_prompt(match: Match, found: Sample, source: str, format: str) -> None:
    """Refuse to cut a prompt out of texts if there is a column with the prompt.

    Args:
        match: How the data is read.
        found: Some rows with all their columns.
        source: What to call the data.
        format: The format chosen, or "auto".

    Raises:
        UserError: There is such a column.
    """
    column = overlooked_prompt(found) if match.cuts_text and format == "auto" else None
    if column is not None:
        raise UserError(
            f"{source} has no column `prompt`. Then the prompt is what chosen and rejected begin with, but `{column}` looks like the "
            f"prompt, and it is not in their texts. Write `dataset_columns: {{prompt: {column}}}`, or `dataset_format: trl` if it is "
            "not the prompt."
        )


def check_mapping(mapping: dict[str, str], columns: tuple[str, ...], source: str, rows: Sequence[Row] = ()) -> None:
    """Check a `dataset_columns` mapping {name known here: column of the dataset, or path inside one} against the dataset.

    Args:
        mapping: The mapping.
        columns: The dataset's columns.
        source: What to call the data.
        rows: Some rows, in which paths are followed.

    Raises:
        UserError: All wrong entries, each with the most similar name.
    """
    known = (*READ, *PASSED)
    problems = []
    for place, column in mapping.items():
        if place not in known:
            problems.append(
                f"dataset_columns: `{place}` is not a known name{near(place, known)}. Known names are "
                f"{', '.join((*NAMED, *PASSED))}."
            )
        path = column_paths.parse(column, columns) if isinstance(column, str) else None
        if path is not None and path.root in columns:
            problems += _nothing_there(path, column, place, source, rows)
        elif not isinstance(column, str) or column not in columns:
            wanted = column if path is None else path.root
            problems.append(
                f"dataset_columns: {source} has no column `{wanted}` for `{place}`"
                f"{near(str(wanted), columns)}. It has {', '.join(columns)}."
            )
    twice = {column for column in mapping.values() if list(mapping.values()).count(column) > 1}
    problems += [f"dataset_columns: column `{column}` is used twice. Use each column once." for column in twice]
    if problems:
        raise UserError(problems)


def _nothing_there(path: Path, text: str, place: str, source: str, rows: Sequence[Row]) -> list[str]:
    """A sentence if a path leads to nothing in any of the rows, with the keys where it ends."""
    values = [row[path.root] for row in rows if row.get(path.root) is not None]
    if not values or any(not _is_nothing(column_paths.follow(value, path.steps)) for value in values):
        return []
    reached = path.root
    for n, step in enumerate(path.steps):
        there = [column_paths.follow(value, path.steps[:n]) for value in values]
        if all(_is_nothing(column_paths.follow(value, path.steps[: n + 1])) for value in values):
            keys = list(dict.fromkeys(key for value in there for key in column_paths.keys_of(value)))
            what = f"has the keys {', '.join(keys)}" if keys else "holds no objects"
            hint = near(step, keys) if isinstance(step, str) else ""
            if isinstance(step, int) and any(isinstance(value, list) for value in there):
                what = f"holds lists of at most {max(len(v) for v in there if isinstance(v, list))} values"
            return [f"dataset_columns: {source} has nothing at `{text}` for `{place}`{hint}: `{reached}` {what}."]
        reached += f"[{step}]" if isinstance(step, int) else f".{step}"
    return []


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_nothing, value)))


def check_pairing(match: Match, pairing: Pairing, source: str) -> None:
    """Refuse settings of pairs that the data gives no meaning to.

    Raises:
        UserError: The data has no scores.
    """
    if pairing.is_default or (match.has_scores if pairing.margin else match.scored is not None):
        return
    raise UserError(
        f"{source} has no scores or ranks of several completions, so {pairing.settings} would have no effect. It was read as "
        f"{match.title}. Remove the setting, or name the columns of completions and scores with `dataset_columns`."
    )


def check_format(format: str) -> None:
    """Raise a UserError if `format` is neither "auto" nor the name of a format."""
    if format not in CHOICES:
        raise UserError(
            f"dataset_format: `{format}` is not a format{near(str(format), CHOICES)}. Allowed are {', '.join(CHOICES)}."
        )


def near(word: str, known: Iterable[str]) -> str:
    """A question with the most similar known word; "" if none is similar."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean `{nearest[0]}`?)" if nearest else ""


def _type(found: Sample, column: str) -> str:
    return type(next(row[column] for row in found.rows if row.get(column) is not None)).__name__
