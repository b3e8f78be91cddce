"""Read OpenAI's preference files: the conversation so far in `input`, and the better and the worse output.

Each output is one assistant message or a list of one. `input` may hold tools beside the messages.
"""

from __future__ import annotations

from trl_ext.data.formats.match import Match
from trl_ext.data.formats.messages import as_messages, kind
from trl_ext.data.formats.row_outcome import Drop, Note, Reason
from trl_ext.data.formats.sample import Row, Sample

NAME = "openai"
TITLE = "OpenAI's preference files"
NEEDS = "input with messages (and tools), preferred_output, non_preferred_output"

OUTPUTS = ("preferred_output", "non_preferred_output")
READ = ("input", *OUTPUTS)


def match(sample: Sample) -> Match | None:
    if not sample.has(*READ):
        return None
    given = [row["input"] for row in sample.rows if row.get("input") is not None]
    if not any(kind(_messages(value)) in ("messages", "text") for value in given):
        return None
    has_tools = any(isinstance(value, dict) and value.get("tools") for value in given)
    return Match(
        format=NAME,
        title=TITLE,
        read=_read,
        columns=READ,
        paired=True,
        conversational=True,
        lifted={"tools": "input.tools"} if has_tools and "tools" not in sample.columns else {},
    )


def _messages(value: object) -> object:
    return value.get("messages") if isinstance(value, dict) and "messages" in value else value


def _read(row: Row, notes: set[Note]) -> Row:
    chosen, rejected = (row.get(name) for name in OUTPUTS)
    prompt = _messages(row.get("input"))
    if prompt is None:
        raise Drop(Reason.NULL)
    return {"prompt": as_messages(prompt, "user", notes), "chosen": chosen, "rejected": rejected}
