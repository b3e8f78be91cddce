"""What lies around rows in a file: the separator of a table's columns, the one key a JSON document is wrapped in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SEPARATORS = (",", ";", "\t", "|")
LARGEST_JSON = 2**24
"""Bytes; a JSON document has to be read whole."""


def other_separator(header: Sequence[str]) -> str | None:
    """The separator of a header that was read as one column and is several; `None` where there is none."""
    if len(header) != 1:
        return None
    found = max(SEPARATORS, key=header[0].count)
    return found if found in header[0] else None


def wrapper(path: Path) -> str | None:
    """The key of a JSON document `{"data": [{…}, …]}` that holds the rows; `None` of any other file."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if (suffixes[-1:] != [".json"] and suffixes[-2:] != [".json", ".gz"]) or path.stat().st_size > LARGEST_JSON:
        return None
    opener: Any = gzip.open if suffixes[-1] == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            return list_of_rows(json.load(file))
    except (OSError, EOFError, ValueError, RecursionError):
        return None


def list_of_rows(document: Any) -> str | None:
    """The key of the only list of objects in an object; messages are no rows."""
    lists = [key for key, value in document.items() if _are_rows(value)] if isinstance(document, dict) else []
    return lists[0] if len(lists) == 1 else None


def _are_rows(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return False
    return not {"role", "from"} & value[0].keys()
