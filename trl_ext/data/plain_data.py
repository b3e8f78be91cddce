"""Load data that needs no verdict: prompts to complete, and demonstrations to imitate.

load(name, prompts.PROMPTS)                  # a column of prompts, or the prompts of preference data
load(name, demonstrations.DEMONSTRATIONS)    # TRL's own columns, or the better completions of preference data
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, IterableDataset

from trl_ext.data.checks import require_rows
from trl_ext.data.column_errors import check_format
from trl_ext.data.empty_images import without_empty_images
from trl_ext.data.formats import Sample, recognise
from trl_ext.data.formats.messages import is_blank
from trl_ext.data.loader import read, without_columns
from trl_ext.data.margins import without
from trl_ext.data.renaming import renamed
from trl_ext.data.report import Dropped, Loaded, place
from trl_ext.data.row_stats import EXAMPLES
from trl_ext.data.sampling import sample, without_format
from trl_ext.data.sources import open_source
from trl_ext.support.errors import UserError

KEPT = ("tools", "chat_template_kwargs")
"""Columns that belong to a prompt or conversation, whatever its completion."""


class Reading(NamedTuple):
    """How data is read for one purpose.

    Attributes:
        from_preferences: From preference data.
        from_columns: From columns of its own. UserError if they are not there.
        has_columns: Whether they are, by the names of all columns.
        from_formats: By a format of labelled completions, from (dataset, source, split); `None` if none fits.
    """

    from_preferences: Callable[[Loaded], Loaded]
    from_columns: Callable[[Any, str], Loaded]
    has_columns: Callable[[Sample], bool]
    from_formats: Callable[[Any, str, str], Loaded | None]


def load(
    name_or_path: Any,
    reading: Reading,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",
    streaming: bool = False,
    title: str | None = None,
) -> Loaded:
    """Read one split; arguments as of `trl_ext.data.load`. The report says what is used of preference data.

    Raises:
        UserError: The data is not found or not readable, has no such split or no rows, or its columns do not fit.
    """
    check_format(format)
    dataset, source = open_source(name_or_path, split=split, config=config, revision=revision, streaming=streaming)
    source = title or source
    dataset, empty = without_empty_images(renamed(without_format(dataset), columns, source))
    if format != "auto" or recognise(sample(dataset)) is not None:
        loaded = reading.from_preferences(without(read(dataset, format=format, source=source, split=split)))
        require_rows(loaded.report)
        return without_columns(loaded, empty)
    found = None if reading.has_columns(sample(dataset)) else reading.from_formats(dataset, source, split)
    if found is not None:
        require_rows(found.report)
        return without_columns(found, empty)
    loaded = without_columns(reading.from_columns(dataset, place(source, split)), empty)
    if loaded.report.rows == 0:
        raise UserError(f"{loaded.report.where} has no rows that can be used. Choose another split or file.")
    return loaded


def drop_empty(loaded: Loaded, column: str, reason: str) -> Loaded:
    """Preference data without the rows whose `column` is empty; these are counted as dropped for `reason`."""
    dataset, report = loaded
    if isinstance(dataset, IterableDataset):
        return Loaded(dataset.filter(_is_filled, input_columns=column), report)
    empty = rows_where(_is_empty, dataset, column)
    if not len(empty):
        return loaded
    numbers = empty if report.kept is None else report.kept[empty]
    dropped = {reason: Dropped(len(empty), int(numbers[0]))}
    examples = {reason: tuple(numbers[:EXAMPLES].tolist())}
    loaded = select(loaded, rows_where(_is_filled, dataset, column))
    return loaded._replace(
        report=dataclasses.replace(
            loaded.report, dropped={**report.dropped, **dropped}, examples={**report.examples, **examples}
        )
    )


def _is_empty(value: Any) -> bool:
    return not value or (isinstance(value, list) and is_blank(value))


def _is_filled(value: Any) -> bool:
    return not _is_empty(value)


def select(loaded: Loaded, rows: np.ndarray) -> Loaded:
    """Only these rows, with their numbers in the source."""
    kept = rows if loaded.report.kept is None else loaded.report.kept[rows]
    return Loaded(loaded.dataset.select(rows), dataclasses.replace(loaded.report, kept=kept, rows_out=len(rows)))


def rows_where(test: Callable[[Any], bool], dataset: Dataset, column: str) -> np.ndarray:
    """Numbers of the rows whose `column` passes the test."""
    passed = [test(value) for batch in dataset.select_columns([column]).iter(1000) for value in batch[column]]
    return np.flatnonzero(passed)
