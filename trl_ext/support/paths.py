"""Judge values that name a path on this computer or perhaps a repository on the Hub."""

import os
import re
import tempfile
from pathlib import Path

from trl_ext.support import messages

LONGEST_NAME, LONGEST_PATH = 255, 4096
"""Bytes that file systems allow."""


def in_full(text: str) -> str:
    """A path with `~` expanded. ValueError, the end of a sentence, if no file can have this name."""
    if not text.isprintable():  # half a surrogate pair is not either, so what is left can be encoded
        raise ValueError(f"is {messages.shown(text)}, which has characters that no path or name can have: check it.")
    if len(text.encode()) >= LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in text.split("/")):
        raise ValueError(f"is {messages.shown(text)}, which is longer than any path or name: check it.")
    written_out = os.path.expanduser(text)
    if written_out.startswith("~"):
        raise ValueError(f"is {text}, and this computer has no such user: write the full path.")
    return written_out


def is_path(name: str) -> bool:
    """Whether a name cannot be a Hub repository's (org/name, or name alone)."""
    return not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith((".", "~", "/"))


def absent(path: Path, what: str) -> str:
    """The end of a sentence about a path that does not exist."""
    parent = path.parent
    if not parent.is_dir():
        start = "" if path.is_absolute() else f" (it is relative to {Path.cwd()})"
        return f"there is no folder {parent}: check the path{start}."
    near = messages.nearest(path.name, [entry.name for entry in parent.iterdir()])
    if near:
        return f"there is no such {what}: did you mean {parent / near[0]}?"
    return f"{parent.resolve()} holds no such {what}: check the path."


def unwritable(folder: Path) -> str | None:
    """The end of a sentence about a folder, existing or not, that cannot be written to; `None` if it can be.

    A file is written to the nearest existing folder: permissions alone do not reveal /proc, a full disk or a read-only one.
    """
    folder = folder.absolute()
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    if not there.is_dir():
        return f"{there} is a file: name a folder, which need not exist yet."
    try:
        tempfile.TemporaryDirectory(prefix=".trl-ext-", dir=there).cleanup()
    except OSError as error:
        return f"{there} cannot be written to ({error.strerror}): name another folder."
    return None
