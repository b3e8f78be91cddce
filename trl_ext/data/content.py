"""Judge what a column holds by its values: text to read, two classes, numbers, or names of something."""

from __future__ import annotations

from typing import Any

from trl_ext.data.column_names import spelled_plainly
from trl_ext.data.formats.labels import verdicts
from trl_ext.data.formats.messages import kind
from trl_ext.data.formats.sample import as_list
from trl_ext.support.errors import UserError

FEW = 4
"""Rows from which on texts without a space are taken for names, not for prompts or completions."""
NAMES = frozenset(
    "id ids uuid guid url link hash sha key index idx date time timestamp created source dataset model models language lang domain "
    "category subreddit author user_id worker annotator version split type topic".split()
)
"""Last words of the names of columns that tell where a row comes from."""


def is_prose(values: list[Any], name: str) -> bool:
    """True if the values are texts or messages that one could train on, or if there are none."""
    kinds = {kind(value) for value in values}
    if "messages" in kinds or not values:
        return kinds <= {"messages", "text"}
    if kinds != {"text"} or are_numbers(values) or _are_truth_values(values):
        return False
    if any(" " in value.strip() or "\n" in value.strip() for value in values):
        return not _is_name(name) or sum(" " in value.strip() for value in values) > len(values) / 2
    return not _is_name(name) and len(values) < FEW


def are_two_classes(values: list[Any]) -> bool:
    """True if the values are labels of the known spellings, or if there are none."""
    scalars = [value for value in values if isinstance(value, (str, bool, int, float))]
    if len(scalars) < len(values):
        return False
    try:
        return not scalars or bool(verdicts(scalars, "", ""))
    except UserError:
        return False


def are_numbers(values: list[Any]) -> bool:
    """True if all values are numbers, or texts of numbers."""
    return bool(values) and all(_is_number(value) for value in values)


def are_ratings(values: list[Any]) -> bool:
    """True if the values are numbers of more than two classes."""
    return are_numbers(values) and not are_two_classes(values)


def are_scores(values: list[Any]) -> bool:
    """True if the values are lists of numbers."""
    lists = [as_list(value) for value in values]
    return bool(lists) and all(items and all(item is None or _is_number(item) for item in items) for items in lists)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _are_truth_values(values: list[str]) -> bool:
    return {value.strip().lower() for value in values} <= {"true", "false"}


def _is_name(name: str) -> bool:
    return spelled_plainly(name.replace(".", "_")).rpartition("_")[2] in NAMES
