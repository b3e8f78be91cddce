"""Find the rows in a JSON document that wraps them in an object: `{"version": 1, "data": [{…}, …]}`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trl_ext.data.files.compression import ERRORS, open_text
from trl_ext.data.files.names import kind

LARGEST = 2**24
"""Bytes of a file. A JSON document has to be read as a whole."""


def key_of_rows(path: Path) -> str | None:
    """The key that holds the rows of a wrapped `.json` document; `None` for any other file."""
    if kind(path) != ".json" or path.stat().st_size > LARGEST:
        return None
    try:
        with open_text(path) as file:
            return list_of_rows(json.load(file))
    except (*ERRORS, ValueError, RecursionError):
        return None


def list_of_rows(document: Any) -> str | None:
    """The key of the only list of objects in an object. A list of messages is not a list of rows."""
    lists = [key for key, value in document.items() if _are_rows(value)] if isinstance(document, dict) else []
    return lists[0] if len(lists) == 1 else None


def _are_rows(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return False
    return not {"role", "from"} & value[0].keys()
