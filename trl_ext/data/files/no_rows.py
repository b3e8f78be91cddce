"""Recognise files that can be read and hold no rows. Every text completes "p.jsonl cannot be read: …"."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from trl_ext.data.files.names import LINES, builder, kind
from trl_ext.data.files.tables import usual_separator

NOTHING = "it holds no rows. Choose another file."
OBJECT = "it is one object"
"""How the sentences about JSON objects that are no rows begin."""
LARGEST = 2**16
"""Bytes of a line-by-line file without rows. A longer one is not searched for a row."""


def without_rows(path: Path, text: str, is_whole: bool) -> str | None:
    """Why a JSON file or a table holds no rows, judged from its beginning; `None` if it does, or if that is unknown."""
    if not text.strip("\ufeff \t\r\n\f\v"):
        return NOTHING if is_whole else None
    if builder(path) == "csv":
        return _of_table(path, text) if is_whole else None
    if not is_whole:
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):  # several values
        return _of_values(text) if len(text) < LARGEST else None
    return _of_document(document, is_lines=kind(path) in LINES)


def _of_table(path: Path, text: str) -> str | None:
    rows = csv.reader(text.removeprefix("\ufeff").splitlines(keepends=True), delimiter=usual_separator(kind(path)))
    try:
        filled = [
            row for _, row in zip(range(2), (row for row in rows if any(cell.strip() for cell in row)), strict=False)
        ]
    except csv.Error:
        return None
    return "it has a header and no rows. Choose another file." if len(filled) < 2 else None


def _of_values(text: str) -> str | None:
    try:
        values = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        return None
    return NOTHING if not any(values) else None


def _of_document(document: Any, is_lines: bool) -> str | None:
    if not document:
        return NOTHING
    if isinstance(document, list):
        return NOTHING if not any(document) else None
    if is_lines or not isinstance(document, dict):
        return None
    empty = [key for key, value in document.items() if isinstance(value, list) and not value]
    if empty and not any(isinstance(value, str) for value in document.values()):
        return f"{OBJECT} whose `{empty[0]}` is an empty list, so it holds no rows. Choose another file."
    if not _may_be_a_row(document):
        keys = ", ".join(list(document)[:6])
        return f"{OBJECT} with the keys {keys}, and none of them is a list of rows. Write a list of objects, or one per line."
    return None


def _may_be_a_row(document: dict[str, Any]) -> bool:
    """True if the object holds text, lists or messages, as a row does."""
    return any((isinstance(value, (str, list)) and value) or _is_message(value) for value in document.values())


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and bool({"role", "content", "from", "value", "messages"} & value.keys())
