"""Find and describe the first mistake in JSON text, as `datasets` reads it.

It reads objects one after the other, on lines of their own or not, or one list of objects. Every text returned completes
"p.jsonl cannot be read: …" and ends with what to do.
"""

from __future__ import annotations

import json
import re

SPACE = re.compile(r"\s*")
CORRECT = "Correct or remove the line."


def first_mistake(text: str, first_line: int = 1, is_whole: bool = True) -> str | None:
    """The first mistake in text that begins at line `first_line` of a file.

    If the text `is_whole`, a value that its end cuts off is a mistake too.
    """

    def line(position: int) -> int:
        return first_line + text.count("\n", 0, position)

    decoder, end = json.JSONDecoder(), len(text.rstrip())
    position = start = SPACE.match(text).end()
    while position < end:
        try:
            value, after = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            if not is_whole and error.pos >= end:
                return None
            mistake = _cut_off(text, position)
            number = line(position if mistake else error.pos)
            return f"line {number:,} is not JSON ({_describe(mistake or error)}). {CORRECT}"
        except RecursionError:
            return f"line {line(position):,} is nested too deeply. {CORRECT}"
        is_the_list = isinstance(value, list) and position == start and after >= end
        if not is_the_list and not isinstance(value, dict | None):
            return f"line {line(position):,} is not an object, as every row must be. {CORRECT}"
        position = SPACE.match(text, after).end()
    return None


def half_pair(raw: bytes) -> str | None:
    """The mistake in a well-formed JSON value that `datasets` cannot store: half of a surrogate pair."""
    if b"\\ud" not in raw.lower():
        return None
    try:
        text = json.dumps(json.loads(raw), ensure_ascii=False)
    except ValueError:  # several values
        return None
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return None
    return "has half of a surrogate pair (\\ud800–\\udfff), which is not a character. Correct or remove it."


def _cut_off(text: str, position: int) -> json.JSONDecodeError | None:
    """The mistake in the line at `position` by itself, if objects stand on lines of their own.

    An object that is cut off swallows the beginning of the next line, where the decoder finds the mistake.
    """
    first, broken = (text[start:].partition("\n")[0] for start in (SPACE.match(text).end(), position))
    return _mistake_of(broken) if _mistake_of(first) is None else None


def _mistake_of(line: str) -> json.JSONDecodeError | None:
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error
    return None


def _describe(error: json.JSONDecodeError) -> str:
    """The mistake and its column: "Invalid control character '\\t' at column 38"."""
    message = error.msg.removesuffix(" at").rstrip(": ")
    character = f" {error.doc[error.pos]!r}" if message == "Invalid control character" else ""
    return f"{message}{character} at column {error.colno:,}"
