"""Find the completion that a reward function looked at when it raised, without calling the function again."""

import traceback
from typing import Any


def find(error: Exception, given: dict[str, Any]) -> int | None:
    """The number of the row, from 0; `None` if it is not known.

    It is known where a frame of the user's code, the innermost first, has variables that hold objects of one row alone: a
    completion, its prompt, a message of one of them, or the value of a column.

    Args:
        error: Raised by the function.
        given: The arguments of its call; lists of equal length have one entry per row.
    """
    rows = _rows(given)
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        held = {rows[id(value)] for value in frame.f_locals.values() if id(value) in rows}
        if len(held) == 1:
            return held.pop()
    return None


def _rows(given: dict[str, Any]) -> dict[int, int]:
    """The row of each object, by identity; objects that several rows share, such as interned texts, are left out."""
    count, found = len(given["prompts"]), {}
    for values in given.values():
        if not isinstance(values, list) or len(values) != count:
            continue
        for row, value in enumerate(values):
            for part in _parts(value):
                found.setdefault(id(part), set()).add(row)
    return {key: rows.pop() for key, rows in found.items() if len(rows) == 1}


def _parts(value: Any) -> list[Any]:
    """A value with what can identify it: texts, lists, and the messages of a conversation with their contents."""
    if isinstance(value, str):
        return [value] if len(value) > 1 else []
    if isinstance(value, list):
        messages = [part for part in value if isinstance(part, dict)]
        return [value, *messages, *(text for part in messages for text in _parts(part.get("content")))]
    return [value] if isinstance(value, dict) else []
