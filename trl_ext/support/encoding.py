"""Print text to a terminal, pipe or file whose encoding lacks some of its characters, such as cp1252 or ASCII.

A character that the encoding lacks is written in plain ASCII, so that nothing crashes: → as ->, β as beta, others as their
code, \\u4f60.
"""

import codecs
import json
import sys
import unicodedata
from typing import Any

NAME = "trl_ext.plain"
"""Of the error handler in Python's registry."""

PLAIN = {
    "−": "-", "–": "-", "—": "-", "‑": "-", "…": "...", "·": "*", "×": "x", "÷": "/", "±": "+/-", "≥": ">=", "≤": "<=",
    "≠": "!=", "≈": "~", "∝": "~", "≻": ">", "→": "->", "←": "<-", "∞": "inf", "√": "sqrt", "∇": "grad ", "½": "1/2", "²": "^2",
    "³": "^3", "⁰": "^0", "⁵": "^5", "₁": "1", "₂": "2", "‖": "||", "ℓ": "l", "′": "'", "‘": "'", "’": "'", "“": '"', "”": '"',
    "⟦": "[[", "⟧": "]]", "✂": "%", "◀": "<", "✓": "+", "✗": "x", "│": "|", "─": "-", "█": "#", "░": ".", "•": "*", "§": "section ",
    "Â": "A^", "\u0304": "", "\u00a0": " ", "\u202f": " ", "μ": "mu", "µ": "mu",
}  # fmt: skip
"""The characters that messages and tables of trl-ext use."""


def write_every_character() -> None:
    """Let standard output and standard error replace what their encodings lack, for the rest of the process."""
    codecs.register_error(NAME, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not in notebooks, which take every character
            stream.reconfigure(errors=NAME)


def as_json(content: Any, **options: Any) -> str:
    """JSON for standard output: with its characters as they are where the encoding has them all, else as \\u codes.

    Args:
        content, options: For `json.dumps`.
    """
    encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name
    return json.dumps(content, ensure_ascii=not encoding.startswith("utf"), **options)


def typed(text: str) -> str:
    """A text from the command line. Python keeps what its locale cannot decode as bytes; here they are taken for UTF-8.

    Raises:
        ValueError: They are of another encoding.
    """
    if not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    return text.encode(errors="surrogateescape").decode()


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object
    return "".join(_plain(text, place) for place in range(error.start, error.end)), error.end


def _plain(text: str, place: int) -> str:
    character = text[place]
    if character in PLAIN:
        return PLAIN[character]
    if _is_greek(character) and not any(map(_is_greek, text[max(place - 1, 0) : place] + text[place + 1 : place + 2])):
        name = unicodedata.name(character).rpartition(" ")[2]  # a symbol; a letter beside others is a word's
        return name.lower() if character.islower() else name.capitalize()
    return character.encode("ascii", "backslashreplace").decode()


def _is_greek(character: str) -> bool:
    return unicodedata.name(character, "").startswith(("GREEK SMALL LETTER", "GREEK CAPITAL LETTER"))
