"""Read HH, Anthropic's helpful and harmless pairs (arXiv:2204.05862): ``\\n\\nHuman: … \\n\\nAssistant: …``.

Texts are kept unchanged, except for the one space after the colon.
"""

from __future__ import annotations

import re

from trl_ext.data.formats.match import Match
from trl_ext.data.formats.messages import Message, merge_neighbours
from trl_ext.data.formats.row_outcome import Drop, Note, Reason
from trl_ext.data.formats.sample import Row, Sample

NAME = "hh"
TITLE = "HH transcripts"
NEEDS = "chosen and rejected (or completion and label) as Human/Assistant transcripts"

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLE = {"Human": "user", "Assistant": "assistant"}


def match(sample: Sample) -> Match | None:
    for names, paired in ((("chosen", "rejected"), True), (("completion",), False)):
        if not sample.has(*names) or (not paired and sample.label() is None):
            continue
        columns = ("prompt", *names) if sample.kind("prompt") == "text" else names
        rows = [row for row in sample.rows if all(isinstance(row.get(column), str) for column in columns)]
        # A majority decides: some rows may be broken, and a completion may happen to begin with "Assistant:".
        transcripts = sum(_is_transcript(row, names) for row in rows)
        if rows and 2 * transcripts > len(rows):
            return Match(
                format=NAME,
                title=TITLE,
                read=_read_pair if paired else _read_single,
                columns=columns,
                paired=paired,
                conversational=True,
                label=None if paired else sample.label(),
            )
    return None


def _is_transcript(row: Row, names: tuple[str, ...]) -> bool:
    """True if the completions have at least two turns, or follow a prompt that has one."""
    prompt = row.get("prompt")
    if isinstance(prompt, str) and _SPEAKER.match(prompt):
        return True
    return all(_SPEAKER.match(row[name]) and len(_SPEAKER.findall(row[name])) > 1 for name in names)


def turns(text: str, notes: set[Note]) -> list[Message]:
    """The turns of one transcript. Consecutive turns of one speaker are merged.

    Raises:
        Drop: The text does not begin with a speaker.
    """
    before, *pieces = _SPEAKER.split(text)
    if not pieces or before.strip():
        raise Drop(Reason.NOT_TRANSCRIPT)
    speakers, texts = pieces[::2], pieces[1::2]
    messages = [
        {"role": _ROLE[speaker], "content": text.removeprefix(" ")}
        for speaker, text in zip(speakers, texts, strict=True)
    ]
    return merge_neighbours(messages, notes)


def _read_pair(row: Row, notes: set[Note]) -> Row:
    return {name: turns(_whole(row, name), notes) for name in ("chosen", "rejected")}


def _read_single(row: Row, notes: set[Note]) -> Row:
    return {"completion": turns(_whole(row, "completion"), notes)}


def _whole(row: Row, name: str) -> str:
    text, prompt = row.get(name), row.get("prompt")
    if text is None:
        raise Drop(Reason.NULL)
    if not isinstance(text, str):
        raise Drop(Reason.NOT_TEXT)
    return text if not isinstance(prompt, str) or _SPEAKER.match(text) else prompt + text
