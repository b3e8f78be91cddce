"""Read prompts, from a column of their own or from preference data."""

from __future__ import annotations

import dataclasses

from datasets import Dataset, IterableDataset

from trl_ext.data import conversations, unlabelled
from trl_ext.data.formats import Sample
from trl_ext.data.plain_data import KEPT, Reading, drop_empty, rows_where
from trl_ext.data.plain_report import PlainReport
from trl_ext.data.report import Loaded
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError


def _from_preferences(loaded: Loaded) -> Loaded:
    dataset, report = loaded
    names = [name for name in dataset.column_names if name in ("prompt", *KEPT, "images", "image")]
    report = dataclasses.replace(report, done=f"{report.done}; only the prompts are used")
    return drop_empty(Loaded(dataset.select_columns(names), report), "prompt", "the prompt is empty")


def _from_column(dataset: Dataset | IterableDataset, where: str) -> Loaded:
    if "prompt" not in dataset.column_names:
        raise UserError(
            f"{where} has no column `prompt`. Its columns are {', '.join(dataset.column_names)}. Name the column of the "
            "prompts with `dataset_columns: {prompt: <its column>}`, or use preference data."
        )
    if isinstance(dataset, IterableDataset):
        loaded = Loaded(dataset.filter(bool, input_columns="prompt"), PlainReport(where, "prompts", None))
        return conversations.read(loaded, ("prompt",))
    rows = rows_where(bool, dataset, "prompt")
    empty = len(dataset) - len(rows)
    remark = f"{count(empty, 'rows')} dropped: the prompt is empty." if empty else ""
    loaded = Loaded(dataset.select(rows), PlainReport(where, "prompts", len(rows), remark, rows))
    return conversations.read(loaded, ("prompt",)) if len(rows) else loaded


def _has_column(found: Sample) -> bool:
    return found.has("prompt")


def _from_formats(dataset: Dataset | IterableDataset, source: str, split: str) -> Loaded | None:
    loaded = unlabelled.prompts(dataset, source, split)
    return None if loaded is None else drop_empty(loaded, "prompt", "the prompt is empty")


PROMPTS = Reading(_from_preferences, _from_column, _has_column, _from_formats)
