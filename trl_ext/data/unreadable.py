"""Why a file could not be read, with the line to look at. Only called after reading failed."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def why_unreadable(path: Path, error: Exception) -> str:
    """A clause such as "line 7 is not JSON (Expecting value at column 12)"."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    try:
        if {".jsonl", ".ndjson"} & set(suffixes):
            found = _first_bad_line(path, _OPENERS.get(suffixes[-1], open))
        elif ".json" in suffixes:
            found = _bad_document(path, _OPENERS.get(suffixes[-1], open))
        else:
            found = None
    except (OSError, EOFError, lzma.LZMAError) as broken:  # not a gzip file, or a cut-off one
        found = str(broken)
    if found:
        return found
    # datasets wraps what went wrong in "An error occurred while generating the dataset".
    cause = error.__cause__ or error
    if "corresponds to no data" in str(cause):
        return "it holds no rows"
    return (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")


def _first_bad_line(path: Path, opener) -> str | None:
    lines = 0
    with opener(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            lines += 1
            if said := _bad_json(line):
                return f"line {number:,} {said}"
    return None if lines else "it holds no rows"


def _bad_document(path: Path, opener) -> str | None:
    with opener(path, "rb") as file:
        text = file.read()
    if not (said := _bad_json(text)):
        return "it must be a list of objects with the same keys" if text.strip() in (b"[]", b"{}") else None
    # Many files called .json have one object per line.
    return f"it {said}" if text.lstrip()[:1] == b"[" else _first_bad_line(path, opener)


def _bad_json(text: bytes) -> str | None:
    try:
        json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start:,}: {error.object[error.start]:#04x})"
    except json.JSONDecodeError as error:
        return f"is not JSON ({error.msg}, line {error.lineno}, column {error.colno})"
    except RecursionError:
        return "is nested too deeply"
    if b"\\ud" in text.lower() and _has_lone_surrogate(json.loads(text)):
        return "has half of a surrogate pair (\\ud800–\\udfff), which is no character"
    return None


def _has_lone_surrogate(value) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in json.dumps(value, ensure_ascii=False))
