"""Count rows without holding their text: a reason, notes and a hash per row, stored as integers beside the dataset."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset, Features, Value

from trl_ext.data.formats.messages import is_blank
from trl_ext.data.formats.row_outcome import Note, Reason
from trl_ext.data.formats.sample import Row
from trl_ext.data.report import Dropped

# Columns of integers: 0 or the code of the reason to drop the row; bits of notes; a 64-bit hash of the row's text; the label;
# whether the row had to be changed to have TRL's type; the row's number in the source; beside the first pair of a row of the
# source, how many of its pairs were left out because their scores are too close.
REASON, NOTES, HASH, DESIRABLE, CHANGED, NUMBER, LEFT_OUT = (
    f"_trl_ext_{n}" for n in ("reason", "notes", "hash", "desirable", "changed", "number", "left_out")
)
EXAMPLES = 3
"""Rows whose numbers are kept as examples, for each reason and note."""

FEATURES = Features(
    {
        REASON: Value("uint8"),
        NOTES: Value("uint32"),
        HASH: Value("int64"),
        DESIRABLE: Value("bool"),
        CHANGED: Value("bool"),
        NUMBER: Value("int64"),
        LEFT_OUT: Value("uint32"),
    }
)


def dropped(reason: Reason, number: int) -> Row:
    """The integers of a dropped row."""
    return {REASON: reason.code, NOTES: 0, HASH: 0, DESIRABLE: False, CHANGED: True, NUMBER: number, LEFT_OUT: 0}


def kept(row: Row, number: int, paired: bool, conversational: bool, notes: set[Note], changed: bool) -> Row:
    """The integers of a row of TRL's type."""
    _note_empty_and_identical(row, paired, conversational, notes)
    return {
        REASON: 0,
        NOTES: sum(note.bit for note in notes),
        HASH: int.from_bytes(xxhash.xxh64_digest(_text(row)), signed=True),
        DESIRABLE: bool(row.get("label")),
        CHANGED: changed,
        NUMBER: number,
        LEFT_OUT: 0,
    }


def _note_empty_and_identical(row: Row, paired: bool, conversational: bool, notes: set[Note]) -> None:
    is_empty = is_blank if conversational else _is_blank_text
    if is_empty(row["prompt"]):
        notes.add(Note.EMPTY_PROMPT)
    if not paired:
        if is_empty(row["completion"]):
            notes.add(Note.EMPTY_COMPLETION)
        return
    if row["chosen"] == row["rejected"]:
        notes.add(Note.IDENTICAL)
    if is_empty(row["chosen"]):
        notes.add(Note.EMPTY_CHOSEN)
    if is_empty(row["rejected"]):
        notes.add(Note.EMPTY_REJECTED)


def _is_blank_text(text: str) -> bool:
    return not text.strip()


def counts(tally: Dataset) -> dict[str, Any]:
    """The fields of a `Report` that follow from the columns of `tally`."""
    table = tally.with_format("numpy")
    reasons, notes, hashes, numbers = (_column(table, name) for name in (REASON, NOTES, HASH, NUMBER))
    keep = reasons == 0
    found = {reason.value: numbers[reasons == reason.code] for reason in Reason}
    remarks = {note.value: numbers[(notes & note.bit) > 0] for note in Note}
    rows_in = int(numbers[-1]) + 1
    return {
        "rows_in": rows_in,
        "rows_out": int(keep.sum()),
        "rows_used": len(np.unique(numbers[keep])),
        "left_out": int(_column(table, LEFT_OUT).sum()),
        "dropped": {text: Dropped(len(np.unique(rows)), int(rows[0])) for text, rows in found.items() if len(rows)},
        "notes": {text: len(rows) for text, rows in remarks.items() if len(rows)},
        "examples": {
            text: tuple(np.unique(rows)[:EXAMPLES].tolist())
            for text, rows in {**found, **remarks}.items()
            if len(rows)
        },
        "kept": None if np.array_equal(numbers[keep], np.arange(rows_in)) else numbers[keep],
        "duplicates": int(keep.sum()) - len(np.unique(hashes[keep])),
        "desirable": int(_column(table, DESIRABLE)[keep].sum()),
        "content": xxhash.xxh128_hexdigest(np.ascontiguousarray(hashes[keep]).tobytes()),
    }


def usable(tally: Dataset) -> np.ndarray | None:
    """Positions of the usable rows in `tally`; `None` if all are."""
    keep = _column(tally.with_format("numpy"), REASON) == 0
    return None if keep.all() else np.flatnonzero(keep)


def numbers(tally: Dataset) -> np.ndarray:
    """For each row of `tally`, the number of its row in the source."""
    return _column(tally.with_format("numpy"), NUMBER)


def any_changed(tally: Dataset) -> bool:
    """True if a usable row does not have TRL's type yet."""
    table = tally.with_format("numpy")
    return bool((_column(table, CHANGED) & (_column(table, REASON) == 0)).any())


def _column(table: Dataset, name: str) -> np.ndarray:
    return np.asarray(table[name][:])


def _text(row: Row) -> bytes:
    values = [row[name] for name in ("prompt", "chosen", "rejected", "completion", "label") if name in row]
    return json.dumps(values, ensure_ascii=False, sort_keys=True, default=str).encode("utf-8", "surrogatepass")
