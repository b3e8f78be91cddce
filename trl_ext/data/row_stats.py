"""Counting without holding text: per row a reason, notes and a hash, kept as integers beside the dataset."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset, Features, Value

from trl_ext.data.formats.match import Row, remark
from trl_ext.data.formats.outcome import Note, Reason
from trl_ext.data.report import Dropped

# Columns of integers: 0 or the code of the reason to drop; bits of notes; 64 bits of the row's text; the
# label; whether the row had to be changed to be of TRL's type.
REASON, NOTES, HASH, DESIRABLE, CHANGED = (
    f"_trl_ext_{n}" for n in ("reason", "notes", "hash", "desirable", "changed")
)
EXAMPLES = 3
"""Rows of each kind whose numbers are kept to be shown."""

FEATURES = Features(
    {
        REASON: Value("uint8"),
        NOTES: Value("uint32"),
        HASH: Value("int64"),
        DESIRABLE: Value("bool"),
        CHANGED: Value("bool"),
    }
)


def dropped(reason: Reason) -> Row:
    """The integers of a row that cannot be used."""
    return {REASON: reason.code, NOTES: 0, HASH: 0, DESIRABLE: False, CHANGED: True}


def kept(row: Row, paired: bool, conversational: bool, notes: set[Note], changed: bool) -> Row:
    """The integers of a row of TRL's type."""
    remark(row, paired, conversational, notes)
    return {
        REASON: 0,
        NOTES: sum(note.bit for note in notes),
        HASH: int.from_bytes(xxhash.xxh64_digest(_text(row)), signed=True),
        DESIRABLE: bool(row.get("label")),
        CHANGED: changed,
    }


def counts(tally: Dataset) -> dict[str, Any]:
    """The fields of a `Report` that `tally`'s columns tell, in a few bytes per row."""
    table = tally.with_format("numpy")
    reasons, notes, hashes = (_column(table, name) for name in (REASON, NOTES, HASH))
    keep = reasons == 0
    found = {reason.value: np.flatnonzero(reasons == reason.code) for reason in Reason}
    remarks = {note.value: np.flatnonzero(notes & note.bit) for note in Note}
    return {
        "rows_in": len(tally),
        "rows_out": int(keep.sum()),
        "dropped": {text: Dropped(len(rows), int(rows[0])) for text, rows in found.items() if len(rows)},
        "notes": {text: len(rows) for text, rows in remarks.items() if len(rows)},
        "examples": {
            text: tuple(map(int, rows[:EXAMPLES])) for text, rows in {**found, **remarks}.items() if len(rows)
        },
        "kept": None if keep.all() else np.flatnonzero(keep),
        "duplicates": int(keep.sum()) - len(np.unique(hashes[keep])),
        "desirable": int(_column(table, DESIRABLE)[keep].sum()),
        "content": xxhash.xxh128_hexdigest(np.ascontiguousarray(hashes[keep]).tobytes()),
    }


def any_changed(tally: Dataset) -> bool:
    """True if a usable row is not yet of TRL's type."""
    table = tally.with_format("numpy")
    return bool((_column(table, CHANGED) & (_column(table, REASON) == 0)).any())


def _column(table: Dataset, name: str) -> np.ndarray:
    return np.asarray(table[name][:])


def _text(row: Row) -> bytes:
    values = [row[name] for name in ("prompt", "chosen", "rejected", "completion", "label") if name in row]
    return json.dumps(values, ensure_ascii=False, sort_keys=True, default=str).encode("utf-8", "surrogatepass")
