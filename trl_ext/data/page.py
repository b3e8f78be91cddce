"""Look up what a conversation says in the text that a chat template made of it.

White space does not count: many templates strip it. A template may write text as JSON, take the switches of thinking out of it, and a
tokenizer may change it (case, rare characters); all are allowed for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from trl_ext.data.statements import Piece

SWITCHES = re.compile(r"/(?:no_?think|think|system_override)\b")
"""Words of a system text by which SmolLM3's and Nemotron's templates choose what they write. They do not write the words."""
SHOWN = 2
"""Pieces of an example that are named."""


class Page:
    """A rendered text in which the pieces of a conversation are looked up, in their order."""

    def __init__(self, text: str, changed: Callable[[str], str] | None = None, before: str = "") -> None:
        """Prepare a text for looking up pieces.

        Args:
            text: The text.
            changed: How a tokenizer changes a text, if it does.
            before: The text before it, at whose end a piece may begin.
        """
        self.changed = changed
        self.text, self.before = squeezed(text), squeezed(before)
        self.at = 0
        self.used: list[tuple[int, int]] = []

    def lacks(self, given: list[Piece]) -> list[Piece]:
        """The pieces that are not there. Texts may stand there only once, calls after the turns before them."""
        lacking, turn, start = [], None, 0
        for piece in given:
            if piece.turn != turn:
                turn, start = piece.turn, self.at
            if not self._has(piece, start):
                lacking.append(piece)
        return lacking

    def _has(self, piece: Piece, start: int) -> bool:
        if piece.kind == "calls":
            return any(form in self.text[start:] for form in self._forms(piece.text))
        if piece.kind in ("name", "tools"):
            return any(form in self.text for form in self._forms(piece.text))
        return any(self._take(form) for text in _spellings(piece.text) for form in self._forms(text))

    def _take(self, form: str) -> bool:
        at = self.text.find(form, self.at)
        if at >= 0:
            self.at = at + len(form)
            self.used.append((at, self.at))
            return True
        overlap = self.before[len(self.before) - len(form) + 1 :] if len(form) > 1 else ""
        if overlap and form in overlap + self.text[: len(form)]:
            return True
        at = self.text.find(form)  # templates may put the system's text into a later turn
        while at >= 0:
            if all(at + len(form) <= start or at >= stop for start, stop in self.used):
                self.used.append((at, at + len(form)))
                return True
            at = self.text.find(form, at + 1)
        return False

    def _forms(self, text: str) -> Iterator[str]:
        """The text as it may be written: as it is, in JSON, and as the tokenizer changes it."""
        yield squeezed(text)
        for is_ascii in (False, True):
            once = json.dumps(text, ensure_ascii=is_ascii)[1:-1]
            yield squeezed(once)
            yield squeezed(json.dumps(once, ensure_ascii=is_ascii)[1:-1])
        if self.changed is not None:
            yield squeezed(self.changed(text))


def _spellings(text: str) -> Iterator[str]:
    """The text, and without the switches in it."""
    yield text
    if (rest := SWITCHES.sub("", text)) != text and rest.strip():
        yield rest


def squeezed(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def words(pieces: list[Piece]) -> str:
    """Pieces in words: "'Let me think' (assistant) and 2 more"."""
    unique = list(dict.fromkeys((piece.role, piece.text) for piece in pieces))
    named = [f"{shortened(text)!r} ({role})" for role, text in unique[:SHOWN]]
    return ", ".join(named) + (f" and {len(unique) - SHOWN} more" if len(unique) > SHOWN else "")


def shortened(text: str, width: int = 60) -> str:
    """The text in one line, its middle left out if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width // 2]}…{line[1 - width // 2 :]}"
