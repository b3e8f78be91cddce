"""Mark the words in which two texts differ."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

WORDS = re.compile(r"(\w+|[^\w\s])(\s*)")
"""A word or a punctuation mark, and the space after it."""

LONGEST = 1000
"""Words of a text that are compared. The time grows with the square of their number."""

Pieces = list[tuple[str, bool]]
"""A text in pieces, each with whether it differs from the other text."""


def marked(base: str, text: str) -> Pieces:
    """A text in pieces, each with whether its words differ from the base's text.

    >>> marked("We found the bed dull.", "We found the bed lovely.")
    [('We found the bed ', False), ('lovely', True), ('.', False)]
    """
    return both_marked(base, text)[1]


def both_marked(one: str, other: str) -> tuple[Pieces, Pieces]:
    """Both texts in pieces. Words beyond the first `LONGEST` count as different; space is not compared.

    >>> both_marked("A dull bed.", "A lovely bed.")[0]
    [('A ', False), ('dull', True), (' bed.', False)]
    """
    if one == other:
        return _joined([(one, False)]), _joined([(other, False)])
    words, others = ([match.group(1) for match in WORDS.finditer(text)][:LONGEST] for text in (one, other))
    matcher = difflib.SequenceMatcher(None, words, others, autojunk=False)
    same, same_in_other = set(), set()
    for block in matcher.get_matching_blocks():
        same.update(range(block.a, block.a + block.size))
        same_in_other.update(range(block.b, block.b + block.size))
    return _pieces(one, same), _pieces(other, same_in_other)


def _pieces(text: str, same: set[int]) -> Pieces:
    """A text in pieces, given the numbers of the words that do not differ. Space between two words that differ is marked."""
    found = [(text[: len(text) - len(text.lstrip())], False)]
    for number, match in enumerate(WORDS.finditer(text)):
        word, space = match.groups()
        differs = number not in same
        is_last = match.end() == len(text)
        found += [(word, differs), (space, differs and number + 1 not in same and not is_last)]
    return _joined(found)


def _joined(pieces: Iterable[tuple[str, bool]]) -> Pieces:
    """The pieces without empty ones, neighbours of one kind as one piece."""
    found: Pieces = []
    for text, differs in pieces:
        if found and found[-1][1] == differs:
            found[-1] = (found[-1][0] + text, differs)
        elif text:
            found.append((text, differs))
    return found
