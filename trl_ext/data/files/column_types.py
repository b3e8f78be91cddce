"""Name the types of a JSON file's columns, judged from its first rows with the standard library."""

from pathlib import Path
from typing import Any

from trl_ext.data.files.first_rows import first_rows
from trl_ext.data.files.names import builder

NAMES = {str: "text", bool: "true or false", int: "numbers", float: "numbers", dict: "mappings"}


def column_types(path: Path) -> dict[str, str]:
    """The type of each column, in words; columns that are empty or mixed in the first rows are left out.

    Tables such as CSV are left out too: their types are known only after all rows are read.
    """
    if builder(path) != "json":
        return {}
    found: dict[str, set[str]] = {}
    for row in first_rows(path):
        for column, value in row.items():
            if (kind := _kind(value)) is not None:
                found.setdefault(column, set()).add(kind)
    return {column: next(iter(kinds)) for column, kinds in found.items() if len(kinds) == 1}


def _kind(value: Any) -> str | None:
    """The type of a value in words; `None` for null and for an empty list."""
    if not isinstance(value, list):
        return NAMES.get(type(value))
    inner = _kind(value[0]) if value else None
    return None if inner is None else f"lists of {inner}"
