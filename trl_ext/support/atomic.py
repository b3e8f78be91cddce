"""Write files atomically: under another name, synced to disk, then renamed."""

import contextlib
import glob
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file from parts. Its folder is created if it does not exist."""
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
    with contextlib.suppress(OSError):  # not every system can sync a folder; the file is complete either way
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8."""
    write(path, [text.encode()])


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON without escaping non-ASCII characters."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def remove_torn(*paths: Path) -> None:
    """Remove what killed processes left of these files. No other process may be writing them."""
    for path in paths:
        for torn in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            torn.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
