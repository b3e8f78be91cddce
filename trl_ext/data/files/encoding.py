"""Describe text that is not UTF-8, and how to convert it."""

from __future__ import annotations

import codecs
from pathlib import Path

from trl_ext.data.files.names import compression

BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def not_utf8(text: bytes, path: Path, first_line: int = 1) -> str | None:
    """The line that is not UTF-8 in text that begins at line `first_line`; `None` if all of it is.

    The sentence completes "p.csv cannot be read: …".
    """
    try:
        text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = first_line + error.object.count(b"\n", 0, error.start)
        return f"line {line:,} is not UTF-8 (byte {error.object[error.start]:#04x}). {_remedy(text, path)}"
    return None


def _remedy(text: bytes, path: Path) -> str:
    encoding = "utf-16" if b"\0" in text[:64] or text[:2] in BOMS else "latin1"
    how = f", for instance with `iconv -f {encoding} -t utf-8 {path.name} > utf8{path.suffix}`"
    return f"Correct it, or convert the file to UTF-8{'' if compression(path) else how}."
