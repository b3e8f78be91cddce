"""Name the Parquet file and the column whose type differs from that of the files before it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trl_ext.data.files.names import kind

REMEDY = "Write the files with the same columns and types, or name one of them as `dataset_name`."


def differing_column(files: Iterable[Path]) -> str | None:
    """A sentence about the first column that is missing or has another type; `None` if there is none."""
    import pyarrow.parquet

    known: dict[str, tuple[str, Path]] = {}
    for path in (file for file in files if kind(file) == ".parquet"):
        columns = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(path)}
        first = next(iter(known.values()), ("", path))[1]
        for name, found in columns.items():
            expected, place = known.get(name, (None, first))
            if known and expected is None:
                return f"{path.name} has a column `{name}`, and {place.name} has none. {REMEDY}"
            if known and expected != found:
                return f"Column `{name}` has the type {found} in {path.name} and {expected} in {place.name}. {REMEDY}"
        if missing := [name for name in known if name not in columns]:
            return f"{path.name} has no column `{missing[0]}`, and {first.name} has one. {REMEDY}"
        known = known or {name: (found, path) for name, found in columns.items()}
    return None
