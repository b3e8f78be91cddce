"""Read the conversations of data without preferences: every spelling of messages becomes TRL's.

TRL's trainers read `messages`, `prompt` and `completion` as they are. Here they get the roles, texts and tool calls that
preference data gets from `trl_ext.data.formats`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets

from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.formats import content_parts
from trl_ext.data.formats.messages import Message, as_messages
from trl_ext.data.formats.row_outcome import Drop, Note, Reason
from trl_ext.data.formats.sample import Row, decode
from trl_ext.data.plain_report import PlainReport
from trl_ext.data.report import Dropped, Loaded
from trl_ext.data.row_stats import EXAMPLES
from trl_ext.data.sampling import sample
from trl_ext.data.trl_columns import ANY_MESSAGES

ROLES = {"prompt": "user", "completion": "assistant", "messages": "user", "conversations": "user"}
"""{column: the role of a text in it, beside messages in another column}"""
NAMES = {"conversations": "messages"}
"""{column: the name under which TRL reads it}"""
SYSTEM = "system"
REASON, NOTES, CHANGED = (f"_trl_ext_{name}" for name in ("reason", "notes", "changed"))
INTEGERS = Features({REASON: Value("uint8"), NOTES: Value("uint32"), CHANGED: Value("bool")})


def read(loaded: Loaded, columns: tuple[str, ...]) -> Loaded:
    """The data with the messages of these columns in TRL's spelling; rows that cannot be read are dropped and counted.

    A column `conversations` is renamed to `messages`. A text in the column `system` becomes the first turn of `messages`. Data
    without messages is returned unchanged.
    """
    dataset, report = loaded
    found = sample(dataset, known=(*columns, SYSTEM))
    if not any(found.kind(name) == "messages" for name in columns):
        return loaded  # plain text
    has_system = SYSTEM in dataset.column_names and "prompt" not in columns
    names = [*columns, *([SYSTEM] if has_system else [])]
    rest = [name for name in dataset.column_names if name not in names]
    outputs = dict.fromkeys((NAMES.get(name, name) for name in columns), ANY_MESSAGES)
    if isinstance(dataset, IterableDataset):
        features = Features({**outputs, **{name: dataset.features[name] for name in rest}})
        return Loaded(
            dataset.map(
                _stream,
                batched=True,
                fn_kwargs={"names": names, "encoded": found.encoded},
                remove_columns=names,
                features=features,
            ),
            report,
        )
    narrow = dataset.select_columns(names)

    def integers(step: str, features: dict[str, Any], run: Any) -> Dataset:
        return narrow.map(
            run,
            batched=True,
            fn_kwargs={"names": names, "encoded": found.encoded},
            remove_columns=names,
            features=Features(features),
            new_fingerprint=fingerprint(narrow, step, found.encoded),
            desc="Reading conversations",
        )

    counted = integers("scan conversations", INTEGERS, _scan)
    if any(counted[CHANGED][:]):
        converted = integers("convert conversations", outputs, _convert)
        dataset = concatenate_datasets([converted, dataset.select_columns(rest)], axis=1) if rest else converted
    return _select(dataset, report, counted.with_format("numpy"))


def _select(dataset: Dataset, report: PlainReport, counted: Dataset) -> Loaded:
    """The rows that were read, and the report with the others counted."""
    reasons, notes = np.asarray(counted[REASON][:]), np.asarray(counted[NOTES][:])
    found = {reason.value: np.flatnonzero(reasons == reason.code) for reason in Reason}
    remarks = {note.value: np.flatnonzero(notes & note.bit) for note in Note}
    numbers = np.arange(len(dataset)) if report.kept is None else report.kept
    kept = np.flatnonzero(reasons == 0)
    counts = dataclasses.replace(
        report,
        rows=len(kept),
        kept=numbers[kept],
        dropped={text: Dropped(len(rows), int(numbers[rows[0]])) for text, rows in found.items() if len(rows)},
        notes={text: len(rows) for text, rows in remarks.items() if len(rows)},
        examples={
            text: tuple(numbers[rows[:EXAMPLES]].tolist()) for text, rows in {**found, **remarks}.items() if len(rows)
        },
    )
    return Loaded(dataset if len(kept) == len(dataset) else dataset.select(kept), counts)


def _scan(batch: dict[str, list], names: list[str], encoded: tuple[str, ...]) -> dict[str, list]:
    done = [_read_row(*row) for row in _rows(batch, names, encoded)]
    return {name: [integers[name] for _, integers in done] for name in INTEGERS}


def _convert(batch: dict[str, list], names: list[str], encoded: tuple[str, ...]) -> dict[str, list]:
    outputs = [NAMES.get(name, name) for name in names if name != SYSTEM]
    done = [_read_row(*row)[0] or dict.fromkeys(outputs) for row in _rows(batch, names, encoded)]
    return {name: [row[name] for row in done] for name in outputs}


def _stream(batch: dict[str, list], names: list[str], encoded: tuple[str, ...]) -> dict[str, list]:
    outputs = [NAMES.get(name, name) for name in names if name != SYSTEM]
    done = [_read_row(*row)[0] for row in _rows(batch, names, encoded)]
    rest = {name: column for name, column in batch.items() if name not in names}
    kept = [i for i, row in enumerate(done) if row is not None]
    return {
        **{name: [column[i] for i in kept] for name, column in rest.items()},
        **{name: [done[i][name] for i in kept] for name in outputs},
    }


def _rows(batch: dict[str, list], names: list[str], encoded: tuple[str, ...]) -> list[tuple[Row, Row]]:
    """Each row as it is stored, and with the messages decoded that are stored as text."""
    columns = zip(*(batch[name] for name in names), strict=True)
    rows = [dict(zip(names, values, strict=True)) for values in columns]
    return [(row, decode(row, encoded)) for row in rows]


def _read_row(stored: Row, given: Row) -> tuple[Row | None, Row]:
    """The row, or `None` if it cannot be read, and its integers."""
    notes: set[Note] = set()
    system = given.get(SYSTEM)
    try:
        row = {
            NAMES.get(name, name): as_messages(value, ROLES[name], notes)
            for name, value in given.items()
            if name != SYSTEM
        }
    except Drop as drop:
        return None, {REASON: drop.reason.code, NOTES: 0, CHANGED: True}
    row = dict(zip(row, content_parts.alike(list(row.values())), strict=True))
    if isinstance(system, str) and system.strip() and not _has_system(row["messages"]):
        row["messages"] = [{"role": "system", "content": system}, *row["messages"]]
    if "prompt" in row and row["prompt"][-1]["role"] == "assistant":
        notes.add(Note.ENDS_WITH_ASSISTANT)
    is_same = row == {name: value for name, value in stored.items() if name != SYSTEM}
    return row, {REASON: 0, NOTES: sum(note.bit for note in notes), CHANGED: not is_same}


def _has_system(messages: list[Message]) -> bool:
    return messages[0]["role"] in ("system", "developer")
