"""Data without a verdict: prompts to answer, and answers to imitate. Preference data serves as both.

load(name, PROMPTS)           # of pairs or rated answers: their prompts; else a column of prompts, with all others
load(name, DEMONSTRATIONS)    # of pairs: the chosen answers, of rated ones: the desirable; else TRL's own columns
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset

from trl_ext.errors import UserError

from .formats import recognise
from .hints import check_format
from .loader import read, renamed
from .report import Loaded, count, place
from .sampling import sample, without_format
from .sources import open_source

TRAVELLING = ("tools", "chat_template_kwargs")
"""Columns that belong to a prompt or conversation whatever answers it."""

SHAPES = (("messages",), ("prompt", "completion"), ("text",), ("conversations",))
"""Columns that TRL's SFTTrainer trains on, the first that are there."""


@dataclasses.dataclass(frozen=True)
class PlainReport:
    """What was found in data that is no preference data."""

    where: str
    what: str
    rows: int | None
    remark: str = ""

    def sentences(self) -> list[str]:
        number = "a stream" if self.rows is None else count(self.rows, "rows")
        return [f"{self.where}: {self.what}, {number}.", *([self.remark] if self.remark else [])]


class Reading(NamedTuple):
    """How data is read for one purpose: from preference data, and from its own columns."""

    from_preferences: Callable[[Loaded], Loaded]
    from_columns: Callable[[Any, str], Loaded]


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
) -> Loaded:
    """Read one split; arguments as of `trl_ext.data.load`. What preference data it is of is said in the report.

    Raises:
        UserError: not found, not readable, no such split, no rows, or columns that hold nothing of the kind.
    """
    check_format(format)
    dataset, source = open_source(name_or_path, split=split, config=config, revision=revision, streaming=streaming)
    dataset = without_format(dataset)
    if columns:
        dataset = renamed(dataset, dict(columns), source)
    if format != "auto" or recognise(sample(dataset)) is not None:
        return reading.from_preferences(read(dataset, format=format, source=source, split=split))
    loaded = reading.from_columns(dataset, place(source, split))
    if loaded.report.rows == 0:
        raise UserError(f"{loaded.report.where} has no rows that can be used; choose another split or file.")
    return loaded


def _prompts_of_preferences(loaded: Loaded) -> Loaded:
    dataset, report = loaded
    kept = [name for name in dataset.column_names if name in ("prompt", *TRAVELLING)]
    dataset = _with_content(dataset.select_columns(kept), "prompt")
    return Loaded(dataset, dataclasses.replace(report, done=f"{report.done}; only the prompts are used"))


def _prompt_column(dataset: Dataset | IterableDataset, where: str) -> Loaded:
    if "prompt" not in dataset.column_names:
        raise UserError(
            f"{where} has no column of prompts among its own ({', '.join(dataset.column_names)}): name one with "
            "`dataset_columns: {prompt: <the column with it>}`. Preference data serves too."
        )
    kept = _with_content(dataset, "prompt")
    if isinstance(dataset, IterableDataset):
        return Loaded(kept, PlainReport(where, "prompts", None))
    empty = len(dataset) - len(kept)
    return Loaded(
        kept, PlainReport(where, "prompts", len(kept), f"{count(empty, 'rows')} dropped: no prompt." if empty else "")
    )


def _demonstrations_of_preferences(loaded: Loaded) -> Loaded:
    dataset, report = loaded
    if report.paired:
        dataset = dataset.remove_columns("rejected").rename_column("chosen", "completion")
        which = "only the chosen answers are used"
    else:
        dataset = dataset.filter(lambda label: label, input_columns="label").remove_columns("label")
        which = "only the desirable answers are used"
    dataset = _with_content(dataset, "completion")
    return Loaded(dataset, dataclasses.replace(report, done=f"{report.done}; {which}"))


def _demonstration_columns(dataset: Dataset | IterableDataset, where: str) -> Loaded:
    shape = next((names for names in SHAPES if set(names) <= set(dataset.column_names)), None)
    if shape is None:
        allowed = "; ".join(", ".join(names) for names in SHAPES)
        raise UserError(
            f"{where}: its columns ({', '.join(dataset.column_names)}) are not recognised; needed are {allowed}; or "
            "preference data. Say which are which with `dataset_columns`."
        )
    travelling = [name for name in (*TRAVELLING, "images", "image") if name in dataset.column_names]
    rows = None if isinstance(dataset, IterableDataset) else len(dataset)
    return Loaded(
        dataset.select_columns([*shape, *travelling]), PlainReport(where, f"answers in {', '.join(shape)}", rows)
    )


def _with_content(dataset: Dataset | IterableDataset, column: str) -> Dataset | IterableDataset:
    return dataset.filter(bool, input_columns=column)


PROMPTS = Reading(_prompts_of_preferences, _prompt_column)
DEMONSTRATIONS = Reading(_demonstrations_of_preferences, _demonstration_columns)
