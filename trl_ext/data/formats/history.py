"""Read earlier turns that a column holds beside the prompt: pairs of a question and its reply, or messages."""

from __future__ import annotations

from typing import Any

from trl_ext.data.formats.messages import Message, as_messages, kind
from trl_ext.data.formats.row_outcome import Drop, Note, Reason
from trl_ext.data.formats.sample import as_list


def earlier_turns(value: Any, notes: set[Note]) -> list[Message]:
    """The messages of `value`: ``[["Hi", "Hello!"], …]``, messages of any spelling, either as JSON, or nothing.

    Raises:
        Drop: The value is none of these.
    """
    value = as_list(value) if as_list(value) is not None else value
    if not value or (isinstance(value, str) and not value.strip()):
        return []
    if kind(value) == "messages":
        return as_messages(value, "user", notes)
    if not isinstance(value, list):
        raise Drop(Reason.NOT_TEXT)
    turns: list[Message] = []
    for turn in value:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise Drop(Reason.NOT_TEXT)
        turns += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return turns
