"""Read demonstrations: completions to imitate, from columns of their own or from preference data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from trl_ext.data import conversations, unlabelled
from trl_ext.data.formats import Sample
from trl_ext.data.formats.sharegpt import CONVERSATION
from trl_ext.data.plain_data import KEPT, Reading, drop_empty, rows_where, select
from trl_ext.data.plain_report import PlainReport
from trl_ext.data.report import Loaded
from trl_ext.data.sampling import sample
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError

SHAPES = (("messages",), ("prompt", "completion"), ("text",), ("conversations",))
"""Columns that TRL's SFTTrainer trains on; the first that are there are used."""


def _from_preferences(loaded: Loaded) -> Loaded:
    dataset, report = loaded
    if report.paired:
        dataset = dataset.remove_columns("rejected").rename_column("chosen", "completion")
        used = "only the chosen completions are used"
    else:
        used = "only the desirable completions are used"
        if isinstance(dataset, IterableDataset):
            dataset = dataset.filter(bool, input_columns="label")
        else:
            dataset, report = select(Loaded(dataset, report), rows_where(bool, dataset, "label"))
        dataset = dataset.remove_columns("label")
    report = dataclasses.replace(report, done=f"{report.done}; {used}")
    return drop_empty(Loaded(dataset, report), "completion", "the completion is empty")


def _from_columns(dataset: Dataset | IterableDataset, where: str) -> Loaded:
    shape = _shape(sample(dataset))
    if shape is None:
        allowed = ", or ".join(" and ".join(f"`{name}`" for name in names) for names in SHAPES)
        raise UserError(
            f"{where} has the columns {', '.join(dataset.column_names)}, which are not recognised. Needed are {allowed}; or "
            "`instruction` and `output`, or `question` and `answer`; or the columns of preference data. Name them with "
            "`dataset_columns`."
        )
    if shape[0] in CONVERSATION and shape[0] not in ("messages", "conversations"):
        dataset, shape = dataset.rename_column(shape[0], "messages"), ("messages",)
    beside = (*KEPT, "images", "image", *([conversations.SYSTEM] if len(shape) == 1 and shape != ("text",) else []))
    kept = [name for name in beside if name in dataset.column_names]
    what = f"completions in {', '.join(shape)}"
    ignored = tuple(name for name in dataset.column_names if name not in (*shape, *kept))
    dataset = dataset.select_columns([*shape, *kept])
    if isinstance(dataset, IterableDataset):
        return conversations.read(Loaded(dataset, PlainReport(where, what, None, ignored=ignored)), shape)
    # A prompt may be empty, a completion may not.
    rows = np.intersect1d(rows_where(_is_there, dataset, shape[0]), rows_where(bool, dataset, shape[-1]))
    empty = len(dataset) - len(rows)
    problem = f"`{shape[0]}` is empty" if len(shape) == 1 else f"`{shape[0]}` is null or `{shape[-1]}` is empty"
    remark = f"{count(empty, 'rows')} dropped: {problem}." if empty else ""
    loaded = Loaded(dataset.select(rows), PlainReport(where, what, len(rows), remark, rows, ignored=ignored))
    return conversations.read(loaded, shape) if len(rows) else loaded


def _is_there(value: Any) -> bool:
    return value is not None


def _has_columns(found: Sample) -> bool:
    return _shape(found) is not None


def _shape(found: Sample) -> tuple[str, ...] | None:
    """The columns to learn from. A conversation under another name is one as well."""
    own = next((names for names in SHAPES if found.has(*names)), None)
    return own or next(((name,) for name in CONVERSATION if found.kind(name) == "messages"), None)


def _from_formats(dataset: Dataset | IterableDataset, source: str, split: str) -> Loaded | None:
    loaded = unlabelled.demonstrations(dataset, source, split)
    return None if loaded is None else drop_empty(loaded, "completion", "the completion is empty")


DEMONSTRATIONS = Reading(_from_preferences, _from_columns, _has_columns, _from_formats)
