"""Convert plain text prompts and completions to turns of a conversation, and single turns to plain text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets

from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.chat_roles import ROLES
from trl_ext.data.template_choice import ByHand, Style
from trl_ext.data.template_marks import is_marked
from trl_ext.data.trl_columns import ANY_MESSAGES, MESSAGES
from trl_ext.support.errors import UserError

LOOKED_AT = 256
"""Rows whose columns show how examples are stored; of a stream, also those in which marks are looked for."""

AnyDataset = Dataset | IterableDataset


def style_of(dataset: AnyDataset) -> Style:
    """How examples of TRL's types are stored, judged from the first rows: as text, as messages or as whole texts."""
    names = _columns(dataset)
    if not names:
        return "whole" if "text" in (dataset.column_names or ()) else "messages"
    rows = islice(dataset.select_columns(names), LOOKED_AT)  # `take` needs as many rows before datasets 5.2
    return "text" if any(isinstance(value, str) for row in rows for value in row.values()) else "messages"


def by_hand(dataset: AnyDataset, marks: tuple[str, ...], numbers: np.ndarray | None = None) -> ByHand:
    """Count the rows that contain one of the marks of a chat template.

    Args:
        dataset: Examples; of a stream, the first rows are read.
        marks: See `trl_ext.data.template_marks`.
        numbers: The number of each row in its source (default: its position).
    """
    names = _columns(dataset)
    if not marks or not names:
        return ByHand(0, 0)
    texts = dataset.select_columns(names)
    if isinstance(dataset, IterableDataset):
        texts = texts.take(LOOKED_AT)
    first: dict[bool, int] = {}
    rows, total, found = 0, 0, ""
    for batch in texts.iter(1000):
        for values in zip(*batch.values(), strict=True):
            has_mark = any(is_marked(_text(value), marks) for value in values)
            first.setdefault(has_mark, total if numbers is None else int(numbers[total]))
            if has_mark and not found:
                found = next(mark for mark in marks if any(is_marked(_text(value), (mark,)) for value in values))
            rows, total = rows + has_mark, total + 1
    return ByHand(rows, total, found, first.get(True, 0), first.get(False, 0))


def in_turns(dataset: AnyDataset) -> AnyDataset:
    """Every text as a conversation of one turn; values that are messages already stay as they are."""
    return _converted(dataset, _turns, {name: _messages(dataset, name) for name in _columns(dataset)}, "turns")


def as_text(dataset: AnyDataset, where: str) -> AnyDataset:
    """The text of every turn.

    Raises:
        UserError: A row has more than one turn on a side, or a turn that is not text; for a stream, while it is read.
    """
    columns = dict.fromkeys(_columns(dataset), Value("string"))
    return _converted(dataset, _texts, columns, "texts", {"where": where})


def _columns(dataset: AnyDataset) -> list[str]:
    return [name for name in dataset.column_names or () if name in ROLES]


def _messages(dataset: AnyDataset, name: str) -> Any:
    return MESSAGES if dataset.features[name] in (Value("string"), Value("large_string")) else ANY_MESSAGES


def _converted(
    dataset: AnyDataset, function: Any, columns: dict[str, Any], step: str, given: Any = None
) -> AnyDataset:
    names = list(columns)
    if isinstance(dataset, IterableDataset):
        features = Features({**dataset.features, **columns})
        return dataset.map(function, batched=True, fn_kwargs={"names": names, **(given or {})}, features=features)
    narrow = dataset.select_columns(names)
    done = narrow.map(
        function,
        batched=True,
        fn_kwargs={"names": names, **(given or {})},
        features=Features(columns),
        new_fingerprint=fingerprint(narrow, step),
        desc="Writing text as turns" if step == "turns" else "Writing turns as text",
    )
    rest = [name for name in dataset.column_names if name not in names]
    if rest:  # added afterwards, so that images are neither decoded nor written again
        done = concatenate_datasets([done, dataset.select_columns(rest)], axis=1)
    return done.select_columns(dataset.column_names)


def _turns(batch: dict[str, list], names: Sequence[str]) -> dict[str, list]:
    return {
        name: [[{"role": ROLES[name], "content": value}] if isinstance(value, str) else value for value in batch[name]]
        for name in names
    }


def _texts(batch: dict[str, list], names: Sequence[str], where: str) -> dict[str, list]:
    return {name: [_only_text(value, ROLES[name], where) for value in batch[name]] for name in names}


def _only_text(value: Any, role: str, where: str) -> str:
    text = _text(value)
    if text is None or (isinstance(value, list) and value[0]["role"] != role):
        raise UserError(
            f"{where} has rows with a system text or several turns, which only a chat template can write as text. Use a model "
            "with a chat template, without `apply_chat_template: false`, or remove the system texts and earlier turns."
        )
    return text


def _text(value: Any) -> str | None:
    """A text, or the text of a single turn; `None` for anything else."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    return value if isinstance(value, str) else None
