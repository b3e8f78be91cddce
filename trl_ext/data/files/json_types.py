"""Find the types of the columns of JSON files from all of their rows.

`datasets` (5.2) takes the types from the first 10 MiB of the first file. Where a later row has another type or another key, it
either fails or turns lists and objects into text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.data.files.compression import ERRORS, open_text
from trl_ext.data.files.names import LINES, kind

CHUNK = 10 * 2**20
"""Bytes from which `datasets` takes the types."""
LARGEST_STRUCT = 64
"""Keys of an object with a type of its own; one with more keys is a table of arbitrary names."""
ANY = "any"
"""The type of values that have no common type."""

Type = Any
"""`None` (null), "bool", "int", "float", "str", `ANY`, ["list", type of the items] or ["struct", {key: type}]; valid JSON."""


class Types(NamedTuple):
    """Types of columns.

    Attributes:
        first: Of the rows from which `datasets` takes them.
        all: Of all rows.
    """

    first: dict[str, Type]
    all: dict[str, Type]


def types_of(files: Iterable[Path], field: str | None = None) -> Types | None:
    """The types of the columns of JSON files; `None` if a file is not well-formed or has rows that are not objects.

    Args:
        files: In the order in which they are read.
        field: The key that holds the rows of a wrapped document.
    """
    first: Type = None
    found: Type = None
    try:
        for number, path in enumerate(files):
            for row, position in _rows(path, field):
                if row is None:
                    continue
                if not isinstance(row, dict):
                    return None
                found = merged(found, type_of(row, is_row=True))
                if number == 0 and position <= CHUNK:
                    first = found
    except (*ERRORS, ValueError, RecursionError, LookupError):
        return None
    return Types(first[1], found[1]) if first and found else None


def _rows(path: Path, field: str | None) -> Iterator[tuple[Any, int]]:
    """The rows of a file, each with the number of characters before it; 0 for documents that are read as a whole."""
    with open_text(path) as file:
        if kind(path) not in LINES:
            head = file.read(64).lstrip("\ufeff \t\r\n")
            file.seek(0)
            if field is not None or head.startswith("["):
                document = json.load(file)
                yield from ((row, 0) for row in (document if field is None else document[field]))
                return
        position = 0
        for line in file:
            if line.strip():
                yield json.loads(line), position
            position += len(line)


def type_of(value: Any, is_row: bool = False) -> Type:
    """The type of one value."""
    match value:
        case None:
            return None
        case bool():
            return "bool"
        case int():
            return "int" if -(2**63) <= value < 2**63 else ANY
        case float():
            return "float"
        case str():
            return "str"
        case list():
            items: Type = None
            for item in value:
                items = merged(items, type_of(item))
            return ["list", items]
        case dict() if is_row or 0 < len(value) <= LARGEST_STRUCT:
            return ["struct", {key: type_of(item) for key, item in value.items()}]
    return ANY


def merged(one: Type, other: Type) -> Type:
    """The type that values of both types have in common."""
    if one == other or other is None:
        return one
    if one is None:
        return other
    if isinstance(one, list) and isinstance(other, list) and one[0] == other[0]:
        if one[0] == "list":
            return ["list", merged(one[1], other[1])]
        keys = dict.fromkeys([*one[1], *other[1]])
        return ["struct", {key: merged(one[1].get(key), other[1].get(key)) for key in keys}]
    return "float" if {str(one), str(other)} == {"int", "float"} else ANY
