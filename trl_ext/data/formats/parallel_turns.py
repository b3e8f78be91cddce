"""Join conversations that arenas publish in two columns: the user's turns as the prompt, the assistant's as a response.

Each column is a JSON list of texts, stored as text: `["Hi", "And now?"]` and `["Hello!", "Bye."]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from trl_ext.data.formats.row_outcome import Drop, Reason
from trl_ext.data.formats.sample import Row


def are_in(rows: Sequence[Row], names: Sequence[str]) -> bool:
    """True if all of these columns hold lists of turns in every row that has them."""
    values = [row.get(name) for row in rows for name in names]
    return any(value is not None for value in values) and all(v is None or _turns(v) is not None for v in values)


def joined(row: Row, prompt: str, responses: Sequence[str]) -> Row:
    """The row without its prompt column, and with every response replaced by the whole conversation.

    Raises:
        Drop: A turn is missing, or is not text.
    """
    if any(row[name] is None for name in (prompt, *responses)):
        raise Drop(Reason.NULL)
    user_turns, *replies = (_turns(row[name]) for name in (prompt, *responses))
    if any(turns is None or len(turns) != len(user_turns or ()) for turns in replies):
        raise Drop(Reason.BAD_MESSAGE)
    conversations = {name: _conversation(user_turns, turns) for name, turns in zip(responses, replies, strict=True)}
    return {name: value for name, value in row.items() if name != prompt} | conversations


def _conversation(user_turns: list, assistant_turns: list) -> list[dict[str, str]]:
    if not all(isinstance(text, str) and _is_whole(text) for text in (*user_turns, *assistant_turns)):
        raise Drop(Reason.BAD_MESSAGE)
    pairs = zip(user_turns, assistant_turns, strict=True)
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _is_whole(text: str) -> bool:
    """True if the text does not end or begin with half of a character, as truncated texts may."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _turns(value: Any) -> list[str | None] | None:
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    try:
        turns = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return turns if isinstance(turns, list) and turns and all(isinstance(t, str | None) for t in turns) else None
