"""Follow a path to values inside a column: `completions[0].text`, `turns[-1].content`, `answers.score`.

A number in brackets is a position in a list; a negative one counts from the end. A key of a list is that key of all its items.
A value that is JSON text is read as what it spells. Where there is nothing, the value is null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

_PATH = re.compile(r"(?P<root>[^.\[\]]+)(?P<rest>(?:\[-?\d+\]|\.[^.\[\]]+)+)")
_STEP = re.compile(r"\[(-?\d+)\]|\.([^.\[\]]+)")


class Path(NamedTuple):
    """A column, and the keys and positions that lead from its values to others."""

    root: str
    steps: tuple[str | int, ...]


def parse(text: str, columns: Iterable[str]) -> Path | None:
    """The path that a name means; `None` if it is the name of a column, or no path."""
    if text in tuple(columns) or (found := _PATH.fullmatch(text.strip())) is None:
        return None
    steps = tuple(int(place) if place else key for place, key in _STEP.findall(found["rest"]))
    return Path(found["root"], steps)


def follow(value: Any, steps: tuple[str | int, ...]) -> Any:
    """The value at the end of the steps; null where one of them leads nowhere."""
    for i, step in enumerate(steps):
        value = _opened(value)
        if isinstance(step, int):
            value = _item(value, step)
        elif isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list):
            return [follow(item, steps[i:]) for item in value]
        else:
            return None
    return value


def keys_of(value: Any) -> list[str]:
    """The keys of an object, or of the first one in a list."""
    value = _opened(value)
    if isinstance(value, list):
        value = next((item for item in value if item is not None), None)
    return list(value) if isinstance(value, dict) else []


def _opened(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _item(value: Any, place: int) -> Any:
    if isinstance(value, dict):  # `datasets` stores a sequence of objects as an object of lists
        return {key: _item(column, place) for key, column in value.items() if isinstance(column, list)}
    if not isinstance(value, list) or not -len(value) <= place < len(value):
        return None
    return value[place]
