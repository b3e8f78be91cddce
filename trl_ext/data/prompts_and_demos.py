"""Data without a verdict: prompts to answer, and answers to imitate. Preference data serves as both.

load(name, PROMPTS)           # of pairs or rated answers: their prompts; else a column of prompts, with all others
load(name, DEMONSTRATIONS)    # of pairs: the chosen answers, of rated ones: the desirable; else TRL's own columns
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, IterableDataset

from trl_ext.data.checks import require_rows
from trl_ext.data.formats import recognise
from trl_ext.data.hints import check_format
from trl_ext.data.loader import read, renamed
from trl_ext.data.report import Dropped, Loaded, count, place
from trl_ext.data.row_stats import EXAMPLES
from trl_ext.data.sampling import sample, without_format
from trl_ext.data.sources import open_source
from trl_ext.support.errors import UserError

TRAVELLING = ("tools", "chat_template_kwargs")
"""Columns that belong to a prompt or conversation whatever answers it."""

SHAPES = (("messages",), ("prompt", "completion"), ("text",), ("conversations",))
"""Columns that TRL's SFTTrainer trains on, the first that are there."""


@dataclasses.dataclass(frozen=True)
class PlainReport:
    """What was found in data that is no preference data; `kept` as in `Report`."""

    where: str
    what: str
    rows: int | None
    remark: str = ""
    kept: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)

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
    title: str | None = None,
) -> Loaded:
    """Read one split; arguments as of `trl_ext.data.load`. What preference data it is of is said in the report.

    Raises:
        UserError: not found, not readable, no such split, no rows, or columns that hold nothing of the kind.
    """
    check_format(format)
    dataset, source = open_source(name_or_path, split=split, config=config, revision=revision, streaming=streaming)
    dataset, source = without_format(dataset), title or source
    if columns:
        dataset = renamed(dataset, dict(columns), source)
    if format != "auto" or recognise(sample(dataset)) is not None:
        loaded = reading.from_preferences(read(dataset, format=format, source=source, split=split))
        require_rows(loaded.report)
        return loaded
    loaded = reading.from_columns(dataset, place(source, split))
    if loaded.report.rows == 0:
        raise UserError(f"{loaded.report.where} has no rows that can be used; choose another split or file.")
    return loaded


def _prompts_of_preferences(loaded: Loaded) -> Loaded:
    dataset, report = loaded
    names = [name for name in dataset.column_names if name in ("prompt", *TRAVELLING)]
    report = dataclasses.replace(report, done=f"{report.done}; only the prompts are used")
    return _with_content(Loaded(dataset.select_columns(names), report), "prompt", "its prompt is empty")


def _prompt_column(dataset: Dataset | IterableDataset, where: str) -> Loaded:
    if "prompt" not in dataset.column_names:
        raise UserError(
            f"{where} has no column of prompts among its own ({', '.join(dataset.column_names)}): name one with "
            "`dataset_columns: {prompt: <the column with it>}`. Preference data serves too."
        )
    if isinstance(dataset, IterableDataset):
        return Loaded(dataset.filter(bool, input_columns="prompt"), PlainReport(where, "prompts", None))
    rows = _where(bool, dataset, "prompt")
    empty = len(dataset) - len(rows)
    remark = f"{count(empty, 'rows')} dropped: no prompt." if empty else ""
    return Loaded(dataset.select(rows), PlainReport(where, "prompts", len(rows), remark, rows))


def _demonstrations_of_preferences(loaded: Loaded) -> Loaded:
    dataset, report = loaded
    if report.paired:
        dataset = dataset.remove_columns("rejected").rename_column("chosen", "completion")
        which = "only the chosen answers are used"
    else:
        which = "only the desirable answers are used"
        if isinstance(dataset, IterableDataset):
            dataset = dataset.filter(bool, input_columns="label")
        else:
            dataset, report = _only(Loaded(dataset, report), _where(bool, dataset, "label"))
        dataset = dataset.remove_columns("label")
    report = dataclasses.replace(report, done=f"{report.done}; {which}")
    return _with_content(Loaded(dataset, report), "completion", "the answer is empty")


def _demonstration_columns(dataset: Dataset | IterableDataset, where: str) -> Loaded:
    shape = next((names for names in SHAPES if set(names) <= set(dataset.column_names)), None)
    if shape is None:
        allowed = "; ".join(", ".join(names) for names in SHAPES)
        raise UserError(
            f"{where}: its columns ({', '.join(dataset.column_names)}) are not recognised; needed are {allowed}; or "
            "preference data. Say which are which with `dataset_columns`."
        )
    travelling = [name for name in (*TRAVELLING, "images", "image") if name in dataset.column_names]
    what = f"answers in {', '.join(shape)}"
    dataset = dataset.select_columns([*shape, *travelling])
    if isinstance(dataset, IterableDataset):
        return Loaded(dataset, PlainReport(where, what, None))
    # A prompt may be empty, an answer may not.
    rows = np.intersect1d(_where(_is_there, dataset, shape[0]), _where(bool, dataset, shape[-1]))
    empty = len(dataset) - len(rows)
    remark = f"{count(empty, 'rows')} dropped: nothing in {', '.join(shape)}." if empty else ""
    return Loaded(dataset.select(rows), PlainReport(where, what, len(rows), remark, rows))


def _with_content(loaded: Loaded, column: str, reason: str) -> Loaded:
    """The rows whose `column` is not empty; the others are dropped for `reason`."""
    dataset, report = loaded
    if isinstance(dataset, IterableDataset):
        return Loaded(dataset.filter(bool, input_columns=column), report)
    empty = _where(operator.not_, dataset, column)
    if not len(empty):
        return loaded
    numbers = empty if report.kept is None else report.kept[empty]
    gone = {reason: Dropped(len(empty), int(numbers[0]))}
    examples = {reason: tuple(numbers[:EXAMPLES].tolist())}
    loaded = _only(loaded, _where(bool, dataset, column))
    return loaded._replace(
        report=dataclasses.replace(
            loaded.report, dropped={**report.dropped, **gone}, examples={**report.examples, **examples}
        )
    )


def _only(loaded: Loaded, rows: np.ndarray) -> Loaded:
    kept = rows if loaded.report.kept is None else loaded.report.kept[rows]
    return Loaded(loaded.dataset.select(rows), dataclasses.replace(loaded.report, kept=kept, rows_out=len(rows)))


def _is_there(value: Any) -> bool:
    return value is not None


def _where(test: Callable[[Any], bool], dataset: Dataset, column: str) -> np.ndarray:
    """Numbers of the rows whose `column` passes the test."""
    passed = [test(value) for batch in dataset.select_columns([column]).iter(1000) for value in batch[column]]
    return np.flatnonzero(passed)


PROMPTS = Reading(_prompts_of_preferences, _prompt_column)
DEMONSTRATIONS = Reading(_demonstrations_of_preferences, _demonstration_columns)
