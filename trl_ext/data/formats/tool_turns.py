"""Read calls of tools that are not stored as ``tool_calls``, the key that chat templates read.

LLaMA-Factory stores a call as a turn of its own: ``{"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}``.
OpenAI's older API stores it in the assistant's message: ``{"role": "assistant", "function_call": {"name": "f", …}}``.
"""

from __future__ import annotations

import json
from typing import Any

ROLES = ("function_call", "tool_call", "tool_calls")
"""Roles of a turn whose text is a call, or a list of calls."""


def read(role: str, content: Any, item: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The calls of a message as ``tool_calls``; `None` if it makes none that can be read.

    Args:
        role: The role as it is written in the data.
        content: The content of the message.
        item: The message.
    """
    if item.get("tool_calls"):
        given = item["tool_calls"]
        return _decoded(given) if isinstance(given, str) else given
    if item.get("function_call"):
        return _calls(item["function_call"])
    return _calls(_decoded(content)) if role.strip().lower() in ROLES and isinstance(content, str) else None


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _calls(given: Any) -> list[dict[str, Any]] | None:
    calls = given if isinstance(given, list) else [given]
    if not calls or not all(isinstance(call, dict) and isinstance(_function(call).get("name"), str) for call in calls):
        return None
    return [
        {"type": "function", "function": {"name": function["name"], "arguments": function.get("arguments") or {}}}
        for function in map(_function, calls)
    ]


def _function(call: dict[str, Any]) -> dict[str, Any]:
    return call["function"] if isinstance(call.get("function"), dict) else call
