"""Find the separator of a table's columns, and read its rows."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from typing import Any, TextIO

SEPARATORS = (",", ";", "\t", "|")


def usual_separator(kind: str) -> str:
    """The separator that a kind of file is named after."""
    return "\t" if kind == ".tsv" else ","


def other_separator(header: Sequence[str]) -> str | None:
    """The separator of a header that was read as one column but holds several; `None` otherwise."""
    if len(header) != 1:
        return None
    found = max(SEPARATORS, key=header[0].count)
    return found if found in header[0] else None


def first_rows(file: TextIO, kind: str, most: int) -> list[dict[str, Any]]:
    """Up to `most` rows of a table, by the names in its header."""
    rows = csv.DictReader(file, delimiter=usual_separator(kind))
    if (separator := other_separator(rows.fieldnames or [])) is not None:
        file.seek(0)
        rows = csv.DictReader(file, delimiter=separator)
    return list(itertools.islice(rows, most))
