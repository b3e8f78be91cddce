"""Recognise the format of a local file from its first rows, without importing `datasets`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

from trl_ext.data import column_paths
from trl_ext.data.column_errors import check_format, check_mapping, check_pairing, check_prompt, unrecognised
from trl_ext.data.column_names import known_names
from trl_ext.data.files.first_rows import ROWS, first_rows
from trl_ext.data.formats import READ, Match, Row, Sample, recognise
from trl_ext.data.formats.pairing import DEFAULT, Pairing
from trl_ext.data.formats.row_outcome import Drop
from trl_ext.data.report import pairs_of_rows
from trl_ext.support.counts import count

MOST = 4096
"""Rows that are looked at if the first ones are not recognised."""


def recognise_file(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",
    pairing: Pairing = DEFAULT,
) -> Match | None:
    """How a local JSON file or table, compressed or not, will be read, judged from its first rows.

    Args:
        path: Name of the dataset as in a recipe.
        columns: `dataset_columns`, {name known here: column of the file, or path inside one}.
        format: `dataset_format`.
        pairing: `dataset_pairs` and `dataset_pair_margin`.

    Returns:
        The format, or `None` where only loading the data tells.

    Raises:
        UserError: Columns that are named but not there, or that fit no format.
    """
    found = _read(Path(path), columns, format, pairing)
    return None if found is None else found[0]


def first_pairs(path: str | Path, columns: Mapping[str, str] | None, format: str, pairing: Pairing) -> str | None:
    """How many pairs the first rows of a file with rankings give, in words; arguments as of `recognise_file`.

    `None` where a row gives no more than one pair.
    """
    found = _read(Path(path), columns, format, pairing)
    if found is None or not found[0].has_many:
        return None
    match, rows = found
    counts = [_count(match, row) for row in rows]
    pairs, left_out = (sum(numbers) for numbers in zip(*counts, strict=True))
    used = sum(number > 0 for number, _ in counts)
    sentence = pairs_of_rows(pairs, used, left_out, pairing)
    unused = len(rows) - used
    return f"of the first {count(len(rows), 'rows')}, {sentence}" + (
        f"; {count(unused, 'rows')} without a pair" if unused else ""
    )


def _count(match: Match, row: Row) -> tuple[int, int]:
    """The numbers of pairs of a row, and of those left out because their scores are too close."""
    try:
        pairs, left_out = match.pairs({name: row.get(name) for name in match.columns})
    except Drop:
        return 0, 0
    return len(pairs), left_out


def _read(
    path: Path, columns: Mapping[str, str] | None, format: str, pairing: Pairing
) -> tuple[Match, list[Row]] | None:
    check_format(format)
    stored = _stored(path, columns)
    if not stored:
        return None
    found = _known(stored)
    match = recognise(found, format)
    if match is None and len(stored) == ROWS:  # columns may be null or absent in the first rows
        stored = _stored(path, columns, MOST)
        found = _known(stored)
        match = recognise(found, format)
    if (
        match is None
        and len(stored) == MOST
        and any(found.kind(name) is None for name in found.columns if name in READ)
    ):
        return None
    if match is None:
        raise unrecognised(Sample(_names(stored), stored), path.name, format, columns)
    check_prompt(match, Sample(_names(stored), stored), path.name, format)
    check_pairing(match, pairing, path.name)
    return dataclasses.replace(match, pairing=pairing), found.rows


def columns_of_file(path: str | Path, columns: Mapping[str, str] | None = None) -> tuple[str, ...] | None:
    """All columns of a local JSON file or table, under the names known here.

    Returns:
        The names, or `None` where only loading the data tells: the file has too many rows to look at all of them, or is no
        such file.

    Raises:
        UserError: Columns that are named but not there.
    """
    stored = _stored(Path(path), columns, MOST)
    return _known(stored).columns if 0 < len(stored) < MOST else None


def sample_of_file(path: str | Path, columns: Mapping[str, str] | None = None) -> Sample | None:
    """The first rows of a local JSON file or table, with columns under the names known here.

    Returns:
        The rows, or `None` where only loading the data tells.

    Raises:
        UserError: Columns that are named but not there.
    """
    stored = _stored(Path(path), columns)
    return _known(stored) if stored else None


def _stored(path: Path, columns: Mapping[str, str] | None, most: int = ROWS) -> list[Row]:
    rows = first_rows(path, most) if path.is_file() else []
    return _mapped(rows, dict(columns or {}), path.name) if rows else []


def _known(stored: list[Row]) -> Sample:
    known = known_names(_names(stored))
    rows = [{known.get(name, name): value for name, value in row.items()} for row in stored]
    return Sample(_names(rows), rows)


def _mapped(rows: list[Row], columns: dict[str, str], source: str) -> list[Row]:
    """The rows with the names of `dataset_columns`, as `trl_ext.data.renaming` gives them to a dataset."""
    if not columns:
        return rows
    names = _names(rows)
    check_mapping(columns, names, source, rows)
    paths = {place: path for place, text in columns.items() if (path := column_paths.parse(text, names)) is not None}
    known = {column: place for place, column in columns.items() if place not in paths}
    return [
        {known.get(name, name): value for name, value in row.items() if name in known or name not in columns}
        | {place: column_paths.follow(row.get(path.root), path.steps) for place, path in paths.items()}
        for row in rows
    ]


def _names(rows: list[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(itertools.chain.from_iterable(rows)))
