"""Conversations taken apart, as arenas publish them: the user's turns as the prompt, an assistant's as an answer.

Each is a JSON list of texts, spelled out: `["Hi", "And now?"]` beside `["Hello!", "Bye."]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from trl_ext.data.formats.match import Row
from trl_ext.data.formats.outcome import Drop, Reason


def are_in(rows: Sequence[Row], names: Sequence[str]) -> bool:
    """Whether all of these columns hold lists of turns in every row that has them."""
    values = [row.get(name) for row in rows for name in names]
    return any(value is not None for value in values) and all(v is None or _turns(v) is not None for v in values)


def joined(row: Row, prompt: str, answers: Sequence[str]) -> Row:
    """The row without its prompt, every answer being the whole conversation.

    Raises:
        Drop: A turn is missing, or is no text.
    """
    if any(row[name] is None for name in (prompt, *answers)):
        raise Drop(Reason.NULL)
    asked, *replies = (_turns(row[name]) for name in (prompt, *answers))
    if any(said is None or len(said) != len(asked or ()) for said in replies):
        raise Drop(Reason.BAD_MESSAGE)
    conversations = {name: _conversation(asked, said) for name, said in zip(answers, replies, strict=True)}
    return {name: value for name, value in row.items() if name != prompt} | conversations


def _conversation(asked: list, said: list) -> list[dict[str, str]]:
    if not all(isinstance(text, str) and _is_whole(text) for text in (*asked, *said)):
        raise Drop(Reason.BAD_MESSAGE)
    pairs = zip(asked, said, strict=True)
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _is_whole(text: str) -> bool:
    """Whether no character was cut in two when the text was cut."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _turns(value: Any) -> list[str | None] | None:
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    try:
        turns = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return turns if isinstance(turns, list) and turns and all(isinstance(t, str | None) for t in turns) else None
