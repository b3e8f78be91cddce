"""Whether a local JSON file is JSON throughout, as far as an instant allows, told with the standard library."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import re
from pathlib import Path
from typing import IO

MOST = 2**23
"""Bytes that are looked at, a tenth of a second."""
KINDS = {".json", ".jsonl", ".ndjson"}
OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SPACE = re.compile(r"\s*")


def kind(path: Path) -> str:
    """The ending that tells how rows are written: `.json` of `a.json.gz`. A compression not in `OPENERS` stays in the way."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] and suffixes[-1] in OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def opened(path: Path) -> IO[bytes]:
    """The bytes of a file, compressed or not."""
    return OPENERS.get(path.suffix.lower(), open)(path, "rb")


def problem(path: Path) -> str | None:
    """The end of a sentence about a file that no reader can read; `None` where its first `MOST` bytes are in order.

    As `datasets` reads it: objects one after the other, on lines of their own or not, or one list of them.
    """
    if kind(path) not in KINDS or not path.is_file():
        return None
    try:
        with opened(path) as file:
            raw = file.read(MOST + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        return f"which cannot be read: {error}."
    is_whole = len(raw) <= MOST
    if not is_whole:
        raw = raw[: raw.rfind(b"\n") + 1]  # no value is cut in a character or a text, which hold no line breaks
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return f"of which line {line:,} {not_utf8(error, path)}."
    return _first_mistake(text, is_whole)


def extent(path: Path) -> str:
    """How much of a file `problem` looks at, in words."""
    return (
        "all of it read"
        if path.stat().st_size <= MOST and path.suffix in KINDS
        else f"its first {MOST >> 20} MiB read"
    )


def _first_mistake(text: str, is_whole: bool) -> str | None:
    decoder, end = json.JSONDecoder(), len(text.rstrip())
    position = first = SPACE.match(text).end()
    while position < end:
        try:
            value, after = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            if not is_whole and error.pos >= end:  # where we stopped reading
                return None
            number, mistake = _place(text, position, error)
            return f"of which line {number:,} is not JSON ({why(mistake)}): correct or remove it."
        except RecursionError:
            return f"of which line {_line(text, position):,} is nested too deeply."
        is_the_list = isinstance(value, list) and position == first and after >= end
        if not is_the_list and not isinstance(value, dict | None):
            return (
                f"of which line {_line(text, position):,} holds no object, as every row must be: correct or remove it."
            )
        position = SPACE.match(text, after).end()
    return None


def _place(text: str, position: int, error: json.JSONDecodeError) -> tuple[int, json.JSONDecodeError]:
    """The line to correct and what is wrong with it. Of objects on lines of their own, one cut off swallows the next."""
    first, broken = (text[start:].partition("\n")[0] for start in (SPACE.match(text).end(), position))
    if _mistake_of(first) is None and (mistake := _mistake_of(broken)) is not None:
        return _line(text, position), mistake
    return error.lineno, error


def _mistake_of(line: str) -> json.JSONDecodeError | None:
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error
    return None


def why(error: json.JSONDecodeError) -> str:
    """What is wrong with a line and at which of its characters: "Invalid control character '\\t' at column 38"."""
    said = error.msg.removesuffix(" at").rstrip(": ")
    character = f" {error.doc[error.pos]!r}" if said == "Invalid control character" else ""
    return f"{said}{character} at column {error.colno:,}"


def not_utf8(error: UnicodeDecodeError, path: Path) -> str:
    """What is wrong with text in another encoding and how to convert it; completes "line 2 …"."""
    encoding = "utf-16" if b"\0" in error.object[:64] or error.object[:2] in BOMS else "latin1"
    command = f"`iconv -f {encoding} -t utf-8 {path.name} > utf8{path.suffix}`"
    how = f", for instance by {command}" if path.suffix not in OPENERS else ""
    return f"is not UTF-8 (byte {error.object[error.start]:#04x}): correct it, or convert the file to UTF-8{how}"


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
