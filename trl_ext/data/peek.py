"""What the first rows of a local file say, read with the standard library so that a recipe is judged in an instant."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_ext.data.formats import Match, Row, Sample, recognise
from trl_ext.data.hints import check_format, check_mapping, unrecognised
from trl_ext.data.separators import LARGEST_JSON, list_of_rows, other_separator

ROWS = 64


def peek(path: str | Path, columns: Mapping[str, str] | None = None, format: str = "auto") -> Match | None:
    """How a local JSONL, JSON or CSV file (also gzipped) will be read, judged from its first rows.

    Args:
        path: Name of the dataset as in a recipe.
        columns: `dataset_columns`, {name known here: column of the file}.
        format: `dataset_format`.

    Returns:
        The format, or `None` where it cannot be told without opening the data properly.

    Raises:
        UserError: Columns that are named but not there, or that fit no format.
    """
    path = Path(path)
    rows = _first_rows(path) if path.is_file() else []
    if not rows:
        return None
    check_format(format)
    names = tuple(dict.fromkeys(itertools.chain.from_iterable(rows)))
    if columns:
        check_mapping(dict(columns), names, path.name)
        known = {column: place for place, column in columns.items()}
        rows = [
            {known.get(name, name): value for name, value in row.items() if name in known or name not in columns}
            for row in rows
        ]
        names = tuple(dict.fromkeys(itertools.chain.from_iterable(rows)))
    found = Sample(names, rows)
    match = recognise(found, format)
    if match is None:
        raise unrecognised(found, path.name, format)
    return match


def _first_rows(path: Path) -> list[Row]:
    """Up to `ROWS` rows; none if the file is of another kind or not well-formed, which loading it will say better."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_gzipped = suffixes[-1:] == [".gz"]
    kind = suffixes[-2] if is_gzipped and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    opener: Any = gzip.open if is_gzipped else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="" if kind == ".csv" else None) as file:
            if kind == ".csv":
                return _table(file)
            if kind in (".jsonl", ".ndjson"):
                rows = [json.loads(line) for line in itertools.islice(file, ROWS) if line.strip()]
            elif kind == ".json" and path.stat().st_size <= LARGEST_JSON:
                rows = _document(file.read())
            else:
                return []
    except (OSError, EOFError, ValueError, csv.Error):
        return []
    return [row for row in rows[:ROWS] if isinstance(row, dict)]


def _table(file: Any) -> list[Row]:
    rows = csv.DictReader(file)
    if (separator := other_separator(rows.fieldnames or [])) is not None:
        file.seek(0)
        rows = csv.DictReader(file, delimiter=separator)
    return list(itertools.islice(rows, ROWS))


def _document(text: str) -> list[Any]:
    document = json.loads(text)
    if isinstance(document, list):
        return document
    key = list_of_rows(document)
    return [] if key is None else document[key]
