"""Read message lists of every spelling into TRL's: ``[{"role": "user", "content": "…"}, …]``."""

from __future__ import annotations

import ast
import json
from typing import Any

from trl_ext.data.formats import content_parts, tool_turns
from trl_ext.data.formats.content_parts import REASONING, text_of
from trl_ext.data.formats.row_outcome import Drop, Note, Reason

ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    **dict.fromkeys(tool_turns.ROLES, "assistant"),
}
ROLE_KEYS = ("role", "from", "speaker")
TEXT_KEYS = ("content", "value", "text")
# Keys of an object that holds a question and its reply, and nothing else.
EXCHANGES = (
    ("input", "output"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("human", "gpt"),
    ("prompt", "response"),
    ("question", "answer"),
)
USUAL_ROLES = ("system", "developer", "user", "assistant", "tool")

# Keys that chat templates read besides role and content. Other keys (scores, ids, timestamps) never reach the model.
TEMPLATE_KEYS = ("tool_calls", "tool_call_id", "name", *REASONING)

_MARKS = (*ROLE_KEYS, *(keys[0] for keys in EXCHANGES))
"""One of these keys is in every list of messages that a text holds."""
SPEAKING_KEYS = ("tool_calls", *REASONING)
"""Keys of a message that hold what it says, besides its content."""

Message = dict[str, Any]


def kind(value: Any) -> str | None:
    """``"text"``, ``"messages"``, ``"list"`` (of anything else) or ``"other"``; None for a missing value.

    A single message counts as messages.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return "text"
    if isinstance(value, dict):
        return "messages" if _is_message(value) else "other"
    if isinstance(value, list):
        first = next((item for item in value if item is not None), None)
        return "messages" if isinstance(first, dict) and _is_message(first) else "list"
    return "other"


def as_messages(value: Any, role: str, notes: set[Note]) -> list[Message]:
    """Any spelling of messages as a list of them; plain text becomes one message of `role`.

    Accepted are ``role``/``content``, ShareGPT's ``from``/``value`` and mixtures of them (`ROLE_KEYS`, `TEXT_KEYS`), objects
    with a question and its reply (`EXCHANGES`), single messages, lists, and columns of lists
    (``{"role": [...], "content": [...]}``).

    Raises:
        Drop: The value is none of these.
    """
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if value is None:
        raise Drop(Reason.NULL)
    if isinstance(value, dict):
        value = _rows_of(value)
    if not isinstance(value, list):
        raise Drop(Reason.NOT_TEXT)
    if not value:
        raise Drop(Reason.NO_MESSAGES)
    return [_message(message, notes) for item in value for message in _of_exchange(item)]


def decoded(text: str) -> list | dict | None:
    """The messages in `text`, which CSV files hold as JSON or as a Python literal; `None` if it is ordinary text."""
    head = text.lstrip()[:80]
    if head[:1] not in "[{" or not any(f"{q}{key}{q}" in text for q in "\"'" for key in _MARKS):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        first = value[0] if isinstance(value, list) and value else value
        return value if isinstance(first, dict) and _is_message(first) else None
    return None


def merge_neighbours(messages: list[Message], notes: set[Note]) -> list[Message]:
    """Join consecutive turns of one role (except tools) by an empty line: most chat templates require alternating roles."""
    merged: list[Message] = []
    for message in messages:
        last = merged[-1] if merged else None
        texts = last is not None and isinstance(last["content"], str) and isinstance(message["content"], str)
        if texts and last["role"] == message["role"] != "tool" and not last.keys() & set(TEMPLATE_KEYS):
            notes.add(Note.MERGED)
            parts = [part for part in (last["content"], message["content"].lstrip()) if part.strip()]
            merged[-1] = {**message, "content": "\n\n".join(parts)}
        else:
            merged.append(message)
    return merged


def is_blank(messages: list[Message]) -> bool:
    """True if no message has any text, reasoning, tool call or image."""
    for message in messages:
        if text_of(message["content"]).strip() or any(message.get(key) for key in SPEAKING_KEYS):
            return False
        if content_parts.others(message["content"]):
            return False
    return True


def _message(item: Any, notes: set[Note]) -> Message:
    if not isinstance(item, dict):
        raise Drop(Reason.BAD_MESSAGE)
    # Arrow fills keys that only other rows have with None, so the presence of a key means nothing.
    role, content = _first(item, ROLE_KEYS), _first(item, TEXT_KEYS)
    if not isinstance(role, str) or not role.strip():
        raise Drop(Reason.BAD_MESSAGE)
    calls = tool_turns.read(role, content, item)
    if calls is not None and not item.get("tool_calls"):
        notes.add(Note.TOOL_CALLS)
        content = "" if item.get("function_call") is None else content
    extra = {key: item[key] for key in TEMPLATE_KEYS if item.get(key) is not None}
    if item.get("reasoning") is not None:
        extra.setdefault("reasoning_content", item["reasoning"])
    if not any(extra.get(key) for key in REASONING):
        content, thought = content_parts.without_thoughts(content)
        extra |= {} if thought is None else {"reasoning_content": thought}
    if calls is not None:
        extra["tool_calls"] = calls
    if content is None and any(extra.get(key) for key in SPEAKING_KEYS):
        content = ""
    return {"role": _role(role, notes), "content": _content(content), **extra}


def _role(given: str, notes: set[Note]) -> str:
    role = ROLES.get(given.strip().lower(), given.strip())
    if role.lower() in USUAL_ROLES:
        return role.lower()
    notes.add(Note.UNUSUAL_ROLE)
    return role


def _content(given: Any) -> str | list:
    """Text, or parts of which at least one is not text."""
    if isinstance(given, str):
        return given
    parts = [given] if isinstance(given, dict) else given
    if not isinstance(parts, list) or not all(isinstance(part, (dict, str)) for part in parts):
        raise Drop(Reason.BAD_MESSAGE)
    return content_parts.joined(parts)


def _first(item: dict, keys: tuple[str, ...]) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _is_message(item: dict) -> bool:
    has_text = any(key in item for key in (*TEXT_KEYS, "tool_calls", "function_call"))
    return (has_text and any(key in item for key in ROLE_KEYS)) or _exchange(item) is not None


def _exchange(item: dict) -> tuple[str, str] | None:
    return next((keys for keys in EXCHANGES if item.keys() == set(keys)), None)


def _of_exchange(item: Any) -> list[Any]:
    """The two messages of a question and its reply; any other item by itself."""
    keys = _exchange(item) if isinstance(item, dict) else None
    if keys is None:
        return [item]
    return [{"role": role, "content": item[key]} for role, key in zip(("user", "assistant"), keys, strict=True)]


def _rows_of(value: dict) -> list:
    """A single message as a list, and a column of each key as one dict per message."""
    columns = {key: column for key, column in value.items() if isinstance(column, list)}
    if isinstance(_first(value, ROLE_KEYS), list):
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=False)]
    return [value]
