"""Why a file could not be read, with the line to look at. Only called after reading failed."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from trl_ext.data.skim import kind, not_utf8, opened, why


def why_unreadable(path: Path, error: Exception) -> str:
    """A clause such as "line 7 is not JSON (Expecting value at column 12)"."""
    looks = {
        ".jsonl": _first_bad_line,
        ".ndjson": _first_bad_line,
        ".json": _bad_document,
        ".csv": _first_not_utf8,
        ".tsv": _first_not_utf8,
    }
    look = looks.get(kind(path))
    try:
        found = look and look(path)
    except (OSError, EOFError, lzma.LZMAError) as broken:  # not a gzip file, or a cut-off one
        found = str(broken)
    if found:
        return found
    # datasets wraps what went wrong in "An error occurred while generating the dataset".
    cause = error.__cause__ or error
    if "corresponds to no data" in str(cause):
        return "it holds no rows"
    return (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")


def _first_bad_line(path: Path) -> str | None:
    lines = 0
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            lines += 1
            if said := _bad_json(line.rstrip(b"\r\n"), path):
                return f"line {number:,} {said}"
    return None if lines else "it holds no rows"


def _first_not_utf8(path: Path) -> str | None:
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"line {number:,} {not_utf8(error, path)}"
    return None


def _bad_document(path: Path) -> str | None:
    with opened(path) as file:
        text = file.read()
    if not (said := _bad_json(text, path)):
        return "it must be a list of objects with the same keys" if text.strip() in (b"[]", b"{}") else None
    # Many files called .json have one object per line.
    return f"it {said}" if text.lstrip()[:1] == b"[" else _first_bad_line(path)


def _bad_json(text: bytes, path: Path) -> str | None:
    try:
        json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        return not_utf8(error, path)
    except json.JSONDecodeError as error:
        line = f" of line {error.lineno:,}" if b"\n" in text.rstrip() else ""
        return f"is not JSON ({why(error)}{line})"
    except RecursionError:
        return "is nested too deeply"
    if b"\\ud" in text.lower() and _has_lone_surrogate(json.loads(text)):
        return "has half of a surrogate pair (\\ud800–\\udfff), which is no character"
    return None


def _has_lone_surrogate(value) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in json.dumps(value, ensure_ascii=False))
