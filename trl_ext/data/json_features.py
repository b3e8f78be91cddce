"""Choose the features of JSON files whose columns change their type or their keys after the rows that `datasets` looks at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Features, Json, List, Value

from trl_ext.data import content_cache
from trl_ext.data.files.compression import ERRORS, open_bytes
from trl_ext.data.files.json_types import CHUNK, Type, Types, types_of
from trl_ext.support import atomic

SCALARS = {None: "null", "bool": "bool", "int": "int64", "float": "float64", "str": "string"}
LARGEST_STREAM = 2**30
"""Bytes of local files that are read to find the types before they are streamed."""


def features_of(files: Sequence[Path], field: str | None = None, streaming: bool = False) -> Features | None:
    """Features that fit all rows of JSON files; `None` where those fit that `datasets` finds by itself.

    Values without a common type are kept as JSON, so that every row is read as it is written.
    """
    if len(files) == 1 and not _is_longer(files[0]):
        return None
    if streaming and sum(file.stat().st_size for file in files) > LARGEST_STREAM:
        return None
    found = _remembered(files, field)
    if found is None or (found.first == found.all and len(files) == 1):
        return None
    return Features({name: _feature(type) for name, type in found.all.items()})


def _is_longer(path: Path) -> bool:
    """True if `datasets` does not look at all of a file."""
    try:
        with open_bytes(path) as file:
            return len(file.read(CHUNK + 1)) > CHUNK
    except ERRORS:  # reported when the data is loaded
        return False


def _remembered(files: Sequence[Path], field: str | None) -> Types | None:
    """`types_of`, kept beside what `datasets` makes of these files."""
    place = content_cache.folder(content_cache.digest(files)) / "types.json"
    try:
        return Types(*json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        found = types_of(files, field)
    if found is not None:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_json(place, found)
        except OSError:  # the cache cannot be written to, which `datasets` reports
            pass
    return found


def _feature(type: Type) -> Any:
    if isinstance(type, list):
        kind, inside = type
        return List(_feature(inside)) if kind == "list" else {key: _feature(item) for key, item in inside.items()}
    return Value(SCALARS[type]) if type in SCALARS else Json()
