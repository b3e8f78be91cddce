"""Read the column `margin` of pairs: a difference of rewards, which reward models subtract in their loss, and some losses aim at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets

from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.missing_columns import MARGIN, missing
from trl_ext.data.report import Loaded
from trl_ext.support.errors import UserError

SUBTRACTED = "is subtracted from the difference of rewards"
"""What a reward model does with it, as in TRL."""
REWARD_MODEL = "a reward model"
NUMBERS = (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_null)
"""Types of columns that can hold numbers."""


def as_numbers(loaded: Loaded, reader: str = REWARD_MODEL, use: str = SUBTRACTED) -> tuple[Loaded, list[str]]:
    """Pairs whose margins are numbers, and a sentence about them; pairs without the column are returned unchanged.

    Args:
        loaded: Pairs.
        reader: What reads the margins.
        use: What it does with them: the end of a sentence that starts with the column.

    Raises:
        UserError: A margin is missing or not a finite number; for a stream, while it is read.
    """
    dataset, report = loaded
    if MARGIN not in (dataset.column_names or ()):
        return loaded, []
    where = report.where
    if isinstance(dataset, IterableDataset):
        features = Features({**dataset.features, MARGIN: Value("float64")})
        dataset = dataset.map(_converted, fn_kwargs={"where": where, "reader": reader}, features=features)
        return Loaded(dataset, report), [f"{where}: `{MARGIN}` {use}."]
    values = []
    for place, value in enumerate(dataset[MARGIN][:]):
        number = place if report.kept is None else int(report.kept[place])
        values.append(_number(value, f"row {number:,} of {where}", reader))
    column = Dataset.from_dict({MARGIN: values}, features=Features({MARGIN: Value("float64")}))
    column._fingerprint = fingerprint(dataset.select_columns([MARGIN]), MARGIN)
    dataset = concatenate_datasets([dataset.remove_columns(MARGIN), column], axis=1)
    low, middle, high = min(values), float(np.mean(values)), max(values)
    return Loaded(dataset, report), [
        f"{where}: `{MARGIN}` {use}{', as in TRL' if use == SUBTRACTED else ''}: from {low:g} to {high:g}, mean {middle:.3g}."
    ]


def without(loaded: Loaded) -> Loaded:
    """Preference data without the column, which its report then lists among those that are not used."""
    dataset, report = loaded
    if MARGIN not in (dataset.column_names or ()):
        return loaded
    return Loaded(dataset.remove_columns(MARGIN), dataclasses.replace(report, ignored=(*report.ignored, MARGIN)))


def required(loaded: Loaded, loss: str) -> tuple[Loaded, list[str]]:
    """Pairs whose margins are numbers, for a loss that reads them, and a sentence about them.

    Raises:
        UserError: There is no such column, or `as_numbers` refuses it.
    """
    if MARGIN not in (loaded.dataset.column_names or ()):
        raise UserError(missing(loaded.report.where, MARGIN, loss))
    return as_numbers(loaded, f"the loss {loss}", f"is the difference of rewards that {loss} aims at")


def refuse(given: Mapping[str, Any], reader: str) -> None:
    """ValueError for datasets of a trainer whose margins are not all finite numbers. Streams are not read (`watched`).

    Args:
        given: The trainer's arguments by name; `train_dataset` and `eval_dataset` are looked at.
        reader: What reads the margins.
    """
    for name in ("train_dataset", "eval_dataset"):
        of_name = given.get(name)
        for dataset in of_name.values() if isinstance(of_name, dict) else [of_name]:
            if isinstance(dataset, Dataset) and (problem := _problem(dataset, name, reader)) is not None:
                raise ValueError(problem)


def _problem(dataset: Dataset, name: str, reader: str) -> str | None:
    if MARGIN not in dataset.column_names:
        return None
    column = dataset.select_columns([MARGIN]).with_format("arrow")[:][MARGIN]
    if not any(is_of(column.type) for is_of in NUMBERS):
        return (
            f"The column `{MARGIN}` of `{name}` has the type {column.type}, and {reader} reads numbers. Convert it, as in "
            f'`dataset.cast_column("{MARGIN}", Value("float64"))`, or rename it.'
        )
    are_finite = pc.fill_null(pc.is_finite(column.cast("float64")), False).to_numpy()
    row = int(are_finite.argmin()) if len(are_finite) else 0
    return None if are_finite.all() else _sentence(column[row].as_py(), f"row {row:,} of `{name}`", reader)


def watched(dataset: Any, name: str, reader: str) -> Any:
    """A trainer's dataset, whose margins are checked as its rows are read if it is streamed.

    Raises:
        UserError: While rows are read: a margin is not a finite number.
    """
    if not isinstance(dataset, IterableDataset):
        return dataset
    return dataset.map(
        _refused, fn_kwargs={"where": f"a row of `{name}`", "reader": reader}, features=dataset.features
    )


def _refused(row: dict[str, Any], where: str, reader: str) -> dict[str, Any]:
    value = row.get(MARGIN, 0.0)
    if isinstance(value, bool) or not (isinstance(value, Real) and math.isfinite(value)):
        raise UserError(_sentence(value, where, reader))
    return {}


def _converted(row: dict[str, Any], where: str, reader: str) -> dict[str, float]:
    return {MARGIN: _number(row[MARGIN], f"a row of {where}", reader)}


def _number(value: Any, where: str, reader: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise UserError(_sentence(value, where, reader))
    return number


def _sentence(value: Any, where: str, reader: str) -> str:
    given = "empty" if value is None else f"{value!r}"
    return (
        f"The `{MARGIN}` in {where} is {given}, and {reader} reads it as a number. Give every row a finite number, "
        f"or rename the column."
    )
