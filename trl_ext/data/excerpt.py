"""Shorten a row to one line."""

from __future__ import annotations

import json

from trl_ext.data.formats.messages import kind
from trl_ext.data.formats.sample import Row

HIDDEN = ("images", "image", "label", "input_ids", "labels")


def excerpt(row: Row, width: int = 44) -> str:
    """A row in one line: the end of its prompt, and the beginning and end of every other text."""
    parts = []
    for name, value in row.items():
        if value is None or name.endswith("_ids") or name in HIDDEN:
            continue
        text = " ".join(_text(value).split())
        if len(text) > width:
            start = 0 if name == "prompt" else width // 2
            text = f"{text[:start]}…{text[start + 1 - width :]}"
        parts.append(f"{name} {text!r}")
    return " | ".join(parts) or "empty"


def _text(value: object) -> str:
    """The text of a value; for messages, that of the last one."""
    if isinstance(value, list):
        return _text(value[-1]) if kind(value) == "messages" else json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, dict):
        return _text(
            next(
                (value[key] for key in ("content", "value") if value.get(key) is not None),
                json.dumps(value, default=str),
            )
        )
    return str(value)
