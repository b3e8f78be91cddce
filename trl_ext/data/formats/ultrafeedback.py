"""Read UltraFeedback data: chosen and rejected are whole conversations; `prompt` is their first turn as text."""

from __future__ import annotations

from trl_ext.data.formats.match import Match
from trl_ext.data.formats.row_outcome import Note
from trl_ext.data.formats.sample import Row, Sample

NAME = "ultrafeedback"
TITLE = "UltraFeedback message lists"
NEEDS = "chosen and rejected as message lists, and prompt as text"


def match(sample: Sample) -> Match | None:
    lists = sample.kind("chosen") == sample.kind("rejected") == "messages"
    if not lists or sample.kind("prompt") != "text":
        return None
    return Match(
        format=NAME,
        title=TITLE,
        read=_read,
        columns=("prompt", "chosen", "rejected"),
        paired=True,
        conversational=True,
    )


def _read(row: Row, notes: set[Note]) -> Row:
    return row
