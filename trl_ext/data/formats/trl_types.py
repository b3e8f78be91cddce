"""Read TRL's own preference types: prompt/chosen/rejected or prompt/completion/label, plain or conversational.

The prompt of a pair may be implicit: the beginning that chosen and rejected share.
"""

from __future__ import annotations

from trl_ext.data.formats.match import Match
from trl_ext.data.formats.row_outcome import Note
from trl_ext.data.formats.sample import Row, Sample

NAME = "trl"
TITLE = "TRL's own columns"
NEEDS = "prompt, chosen, rejected; or chosen, rejected; or prompt, completion, label"


def match(sample: Sample) -> Match | None:
    for names, paired in ((("chosen", "rejected"), True), (("completion",), False)):
        columns = ("prompt", *names) if sample.kind("prompt") is not None else names
        kinds = {sample.kind(column) for column in columns} - {None}
        if not sample.has(*names) or not kinds or not kinds <= {"text", "messages"}:
            continue
        if not paired and (sample.label() is None or ("prompt" not in columns and "messages" not in kinds)):
            continue
        return Match(
            format=NAME,
            title=TITLE,
            read=_read,
            columns=columns,
            paired=paired,
            conversational="messages" in kinds,
            label=None if paired else sample.label(),
        )
    return None


def _read(row: Row, notes: set[Note]) -> Row:
    return row
