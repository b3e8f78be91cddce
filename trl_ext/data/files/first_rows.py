"""Read the first rows of a JSON file or a table with the standard library."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

from trl_ext.data.files import tables
from trl_ext.data.files.compression import ERRORS, open_text, wrong_name
from trl_ext.data.files.names import LINES, TEXT, builder, kind
from trl_ext.data.files.wrapped_json import LARGEST, list_of_rows

ROWS = 64


def first_rows(path: Path, most: int = ROWS) -> list[dict[str, Any]]:
    """Up to `most` rows; none if the file is of another kind, too large or not well-formed.

    `trl_ext.data.files.problems` says what is wrong with it.
    """
    if kind(path) not in TEXT:
        return []
    try:
        if wrong_name(path) is not None:
            return []
        with open_text(path, newline="" if builder(path) == "csv" else None) as file:
            if builder(path) == "csv":
                return tables.first_rows(file, kind(path), most)
            if kind(path) in LINES:
                rows = [json.loads(line) for line in itertools.islice(file, most) if line.strip()]
            elif path.stat().st_size <= LARGEST:
                rows = _rows_of(json.load(file))
            else:
                return []
    except (*ERRORS, ValueError, RecursionError, csv.Error):
        return []
    return [row for row in rows[:most] if isinstance(row, dict)]


def _rows_of(document: Any) -> list[Any]:
    if isinstance(document, list):  # `datasets` calls the column of a list of texts `text`
        return [{"text": item} if isinstance(item, str) else item for item in document]
    key = list_of_rows(document)
    return [] if key is None else document[key]
