"""Read the column `margin` of pairs: the least difference of rewards, which TRL's reward trainer subtracts in its loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets

from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.report import Loaded
from trl_ext.support.errors import UserError

MARGIN = "margin"


def as_numbers(loaded: Loaded) -> tuple[Loaded, list[str]]:
    """Pairs whose margins are numbers, and a sentence about them; pairs without the column are returned unchanged.

    Raises:
        UserError: A margin is missing or not a finite number; for a stream, while it is read.
    """
    dataset, report = loaded
    if MARGIN not in (dataset.column_names or ()):
        return loaded, []
    where = report.where
    if isinstance(dataset, IterableDataset):
        features = Features({**dataset.features, MARGIN: Value("float64")})
        dataset = dataset.map(_converted, fn_kwargs={"where": where}, features=features)
        return Loaded(dataset, report), [f"{where}: `{MARGIN}` is subtracted from the difference of rewards."]
    values = []
    for place, value in enumerate(dataset[MARGIN][:]):
        number = place if report.kept is None else int(report.kept[place])
        values.append(_number(value, f"row {number:,} of {where}"))
    column = Dataset.from_dict({MARGIN: values}, features=Features({MARGIN: Value("float64")}))
    column._fingerprint = fingerprint(dataset.select_columns([MARGIN]), MARGIN)
    dataset = concatenate_datasets([dataset.remove_columns(MARGIN), column], axis=1)
    low, middle, high = min(values), float(np.mean(values)), max(values)
    return Loaded(dataset, report), [
        f"{where}: `{MARGIN}` is subtracted from the difference of rewards, as in TRL: from {low:g} to {high:g}, mean "
        f"{middle:.3g}."
    ]


def without(loaded: Loaded) -> Loaded:
    """Preference data without the column, which its report then lists among those that are not used."""
    dataset, report = loaded
    if MARGIN not in (dataset.column_names or ()):
        return loaded
    return Loaded(dataset.remove_columns(MARGIN), dataclasses.replace(report, ignored=(*report.ignored, MARGIN)))


def _converted(row: dict[str, Any], where: str) -> dict[str, float]:
    return {MARGIN: _number(row[MARGIN], f"a row of {where}")}


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        given = "empty" if value is None else f"{value!r}"
        raise UserError(
            f"The `{MARGIN}` in {where} is {given}, and a reward model subtracts it as a number. Give every row a finite number, "
            f"or rename the column."
        )
    return number
