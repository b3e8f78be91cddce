"""Recognise the format of a local file from its first rows, without importing `datasets`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from trl_ext.data.column_errors import check_format, check_mapping, unrecognised
from trl_ext.data.files.first_rows import first_rows
from trl_ext.data.formats import Match, Sample, recognise


def recognise_file(path: str | Path, columns: Mapping[str, str] | None = None, format: str = "auto") -> Match | None:
    """How a local JSON file or table, compressed or not, will be read, judged from its first rows.

    Args:
        path: Name of the dataset as in a recipe.
        columns: `dataset_columns`, {name known here: column of the file}.
        format: `dataset_format`.

    Returns:
        The format, or `None` where only loading the data tells.

    Raises:
        UserError: Columns that are named but not there, or that fit no format.
    """
    path = Path(path)
    rows = first_rows(path) if path.is_file() else []
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
