"""Files that are either the old or the new one, never half of it: written aside, synced, renamed."""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file of these bytes, one part after the other. Its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a folder cannot be synced everywhere; the file is whole either way
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8."""
    write(path, [text.encode()])


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, characters of all scripts as they are."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sync(path: Path) -> None:
    """Have the system put a file or folder on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
