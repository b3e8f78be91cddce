"""Rewrite the generated blocks of a model card, and keep what users wrote around them.

A block stands between two HTML comments, which no viewer shows. Users may move a block or remove it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from trl_ext.support import atomic

RUN, RESULTS, USAGE, GGUF = "run", "results", "usage", "gguf"

BLOCK = re.compile(
    r"<!-- trl-ext: (?P<name>\w+)(?P<note>[^\n]*?) -->(?:(?!<!-- trl-ext: ).)*<!-- trl-ext: end -->", re.DOTALL
)
"""A block: its name, and what the comment says besides."""

NOTES = {RESULTS: ", rewritten by each evaluation", GGUF: ", rewritten by each export"}


def block(name: str, content: str, note: str = "") -> str:
    """A block with this content, which must hold no comment of trl-ext."""
    between = f"\n{content.strip()}\n" if content.strip() else "\n"
    return f"<!-- trl-ext: {name}{note or NOTES.get(name, '')} -->{between}<!-- trl-ext: end -->"


def assemble(head: str, **content: str) -> str:
    """A card.

    Args:
        head: Metadata and title.
        content: Text of each block, in their order.
    """
    note = {RUN: f" {hashlib.sha256(head.encode()).hexdigest()[:8]}"}
    blocks = [block(name, text, note.get(name, "")) for name, text in content.items()]
    return "\n\n".join([head.strip(), *blocks]) + "\n"


def rewrite(file: Path, text: str) -> None:
    """Write a card that `assemble` made.

    If the file is already the card of such a run, with the same metadata and title, only its blocks are replaced. Otherwise it is
    written again from the beginning. The results are kept in both cases.
    """
    old = _read(file)
    new = {match["name"]: match for match in BLOCK.finditer(text)}
    kept = {match["name"]: match for match in BLOCK.finditer(old)}
    if RUN in kept and kept[RUN]["note"] == new[RUN]["note"]:
        text, new = old, {name: match for name, match in new.items() if name != RESULTS}
    else:
        new = {RESULTS: kept[RESULTS]} if RESULTS in kept else {}
    _write(file, BLOCK.sub(lambda match: new.get(match["name"], match)[0], text))


def put_results(file: Path, content: str) -> None:
    """Replace the results in a card. See `put`."""
    put(file, RESULTS, content)


def put(file: Path, name: str, content: str) -> None:
    """Replace a block of a card; a card without it gets one at its end. Without a card nothing is written."""
    old = _read(file)
    if not old:
        return
    made = block(name, content)
    found = [match for match in BLOCK.finditer(old) if match["name"] == name]
    if not found and not content:
        return
    new = old if found else f"{old.rstrip()}\n\n{made}\n"
    _write(file, BLOCK.sub(lambda match: made if match["name"] == name else match[0], new))


def _read(file: Path) -> str:
    """The text of a card, whatever its encoding and line ends; empty if there is none."""
    return file.read_bytes().decode(errors="surrogateescape") if file.exists() else ""


def _write(file: Path, text: str) -> None:
    atomic.write(file, [text.encode(errors="surrogateescape")])
