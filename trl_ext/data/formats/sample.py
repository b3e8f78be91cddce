"""Hold some rows of a dataset and say what their columns hold: text, messages or something else."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

from trl_ext.data.formats.messages import decoded, kind

Row = dict[str, Any]
LABELS = ("label", "kto_tag")


class Sample:
    """A dataset's column names and some of its rows, spread over its length.

    Attributes:
        columns: Names of all columns.
        rows: The sampled rows, encoded messages decoded.
        encoded: Columns in which every text is messages written as JSON or as a Python literal. A single such text
            among others is a completion that happens to be JSON, and stays text.
    """

    def __init__(self, columns: Sequence[str], rows: list[Row]) -> None:
        self.columns = tuple(columns)
        texts = {name: [row[name] for row in rows if isinstance(row.get(name), str)] for name in columns}
        self.encoded = tuple(
            name for name, values in texts.items() if values and all(decoded(text) is not None for text in values)
        )
        self.rows = [decode(row, self.encoded) for row in rows]

    def kind(self, column: str) -> str | None:
        """The first of "messages", "text", "list" and "other" that a sampled row holds; `None` if all are null."""
        kinds = {kind(row.get(column)) for row in self.rows} if column in self.columns else set()
        return next((k for k in ("messages", "text", "list", "other") if k in kinds), None)

    def has(self, *columns: str) -> bool:
        return all(column in self.columns for column in columns)

    def label(self) -> str | None:
        """The column of labels, if there is one."""
        return next((column for column in LABELS if column in self.columns), None)


def decode(row: Row, columns: tuple[str, ...]) -> Row:
    """The row with the messages decoded that these columns hold as text. Other texts are left as they are."""
    if not columns:
        return row
    values = {name: decoded(row[name]) for name in columns if isinstance(row.get(name), str)}
    return {**row, **{name: value for name, value in values.items() if value is not None}}


def as_list(value: Any) -> list[Any] | None:
    """A list, or the one that a text holds as JSON or as a Python literal; `None` for any other value.

    An object of lists of one length, as `datasets` stores a sequence of objects, is a list of objects.
    """
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(value)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
        lengths = {len(column) for column in value.values()}
        return (
            [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
            if len(lengths) == 1
            else None
        )
    return value if isinstance(value, list) else None
