"""List what a conversation says, piece by piece, as it has to occur among its tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from trl_ext.data.formats.content_parts import REASONING, text_of

KINDS = ("text", "reasoning", "calls", "name", "tools")
"""What a piece is: the text of a message, the reasoning before it, a call of a tool, the name of a speaker, a declared tool."""
ENDS_OF_REASONING = ("</think>", "</thinking>")


class Piece(NamedTuple):
    """A text that a message holds.

    Attributes:
        kind: One of `KINDS`.
        role: The role of its message; "tools" for a declared tool.
        text: The text. White space does not count.
        turn: The position of its message in the conversation; −1 for a declared tool.
    """

    kind: str
    role: str
    text: str
    turn: int


def pieces(messages: list[dict[str, Any]]) -> Iterator[Piece]:
    """The pieces of a conversation in the order of its messages."""
    for turn, message in enumerate(messages):
        for kind, text in _pieces(message):
            if text.strip():
                yield Piece(kind, message["role"], text, turn)


def _pieces(message: dict[str, Any]) -> Iterator[tuple[str, str]]:
    reasoning, text = split_reasoning(text_of(message["content"])) if message["role"] == "assistant" else ("", "")
    for value in (reasoning, *(message.get(key) for key in REASONING)):
        yield "reasoning", value if isinstance(value, str) else ""
    yield "text", text if message["role"] == "assistant" else text_of(message["content"])
    for call in _listed(message.get("tool_calls")):
        function = call.get("function") if isinstance(call.get("function"), dict) else call
        for leaf in (function.get("name"), *leaves(_decoded(function.get("arguments")))):
            yield "calls", _written(leaf)
    if isinstance(message.get("name"), str):
        yield "name", message["name"]


def split_reasoning(text: str) -> tuple[str, str]:
    """(reasoning, answer) of an assistant's text ``<think>…</think>…``; the opening tag may stand in the prompt."""
    for end in ENDS_OF_REASONING:
        reasoning, found, answer = text.partition(end)
        if found:
            return reasoning.strip().removeprefix(end.replace("/", "")), answer
    return "", text


def declared(tools: Any) -> Iterator[Piece]:
    """The names of the tools in a column `tools`, which holds JSON or a list of schemas."""
    for tool in _listed(_decoded(tools)):
        function = tool.get("function") if isinstance(tool.get("function"), dict) else tool
        if isinstance(function.get("name"), str):
            yield Piece("tools", "tools", function["name"], -1)


def leaves(value: Any) -> Iterator[Any]:
    """The values inside nested lists and mappings."""
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def _written(leaf: Any) -> str:
    return leaf if isinstance(leaf, str) else "" if leaf is None or isinstance(leaf, bool) else json.dumps(leaf)


def _decoded(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _listed(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
