"""The reference cache's place on disk: one folder per identity, holding shards and a line about the model.

Standard library and our own errors only, so that a command can look at the cache and clear it without loading anything. A file
of a name this version does not know (another format, another program) is never touched.
"""

import contextlib
import os
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from trl_ext.support import atomic
from trl_ext.support.errors import UserError

LIMIT_BYTES = 10 * 2**30
"""Default size limit of the whole cache: at 300 tokens a completion, about nine million completions."""

SUFFIX = ".ref1"  # carries the format version: what another version wrote is not even opened
MAGIC = b"trlxref1"
HEADER = struct.Struct("<8s16sQQ16s")
"""First bytes of a shard: magic, identity digest, rows, bytes of the file, digest of these and the index."""

ABOUT = "about.txt"
ABANDONED_SECONDS = 3600
"""A file written aside takes seconds; one this old was left by a process that died."""


@dataclass(frozen=True)
class Entry:
    """The cached completions of one reference."""

    identity: str
    about: str
    """What the reference is, in words; empty if never said."""
    rows: int
    """Completions stored; one stored by two processes at once counts twice."""
    bytes: int
    files: int
    last_used: float
    """Seconds since the epoch, to about ten minutes."""


def default_directory() -> Path:
    """`$TRL_EXT_CACHE` if set, else `~/.cache/trl-ext/reference`."""
    given = os.environ.get("TRL_EXT_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "trl-ext" / "reference"


def default_limit() -> int:
    """Bytes of the whole cache at most: `$TRL_EXT_CACHE_GIB` if set, else `LIMIT_BYTES`.

    Raises:
        UserError: The variable is no number above 0.
    """
    given = os.environ.get("TRL_EXT_CACHE_GIB")
    if not given:
        return LIMIT_BYTES
    with contextlib.suppress(ValueError, OverflowError):
        if (limit := int(float(given) * 2**30)) > 0:
            return limit
    raise UserError(
        f"TRL_EXT_CACHE_GIB is {given!r}: give the size limit of the reference cache in GiB, a number above 0."
    )


def identity_folder(directory: Path, identity: str) -> Path:
    """Folder of one identity.

    Raises:
        ValueError: If `identity` cannot be the name of a folder.
    """
    if not re.fullmatch(r"\w[\w.-]{0,127}", identity, re.ASCII):
        raise ValueError(
            f"The identity {identity!r} cannot name a folder: use 1 to 128 letters, digits, '_', '-' or '.', "
            "for instance the hexadecimal digest `reference_identity` returns."
        )
    return directory / identity


def shards(folder: Path) -> list[Path]:
    """Finished shards of one identity, in no particular order."""
    try:
        return [folder / name for name in os.listdir(folder) if name.endswith(SUFFIX) and name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []


def entries(directory: Path | None = None) -> list[Entry]:
    """Everything cached, last used first."""
    found = []
    for folder in _folders(directory or default_directory()):
        files = [(path, stat) for path in shards(folder) if (stat := _stat(path))]
        if files:
            found.append(
                Entry(
                    identity=folder.name,
                    about=_about(folder),
                    rows=sum(_rows(path) for path, _ in files),
                    bytes=sum(stat.st_size for _, stat in files),
                    files=len(files),
                    last_used=max(stat.st_mtime for _, stat in files),
                )
            )
    return sorted(found, key=lambda entry: entry.last_used, reverse=True)


def usage(directory: Path | None = None) -> int:
    """Bytes of all shards."""
    return sum(stat.st_size for _, stat in _all_shards(directory or default_directory()))


def clear(directory: Path | None = None, identity: str | None = None) -> int:
    """Remove everything cached, or one identity of it, and return the bytes freed.

    A process that is using the cache meanwhile computes again what it misses.
    """
    directory = directory or default_directory()
    freed = 0
    for folder in _folders(directory) if identity is None else [identity_folder(directory, identity)]:
        for path in shards(folder):
            stat = _stat(path)
            if stat and remove(path):
                freed += stat.st_size
        _remove_abandoned(folder)
        remove(folder / ABOUT)
        with contextlib.suppress(OSError):  # holds something that is not ours, or is being written to
            folder.rmdir()
    return freed


def evict(directory: Path, limit_bytes: int, keep: Path) -> int:
    """Remove the shards used longest ago until at most `limit_bytes` are left, and return how many.

    `keep`, just written, stays whatever its size.
    """
    for folder in _folders(directory):
        _remove_abandoned(folder)
    files = sorted(_all_shards(directory), key=lambda file: file[1].st_mtime)
    total = sum(stat.st_size for _, stat in files)
    removed = 0
    for path, stat in files:
        if total <= limit_bytes:
            break
        if path != keep and remove(path):
            total -= stat.st_size
            removed += 1
    return removed


def say_about(folder: Path, about: str) -> None:
    """Leave a line for people who look at the cache; nothing ever reads it as a fact."""
    if about and _about(folder) != about:
        atomic.write_text(folder / ABOUT, about + "\n")


def _about(folder: Path) -> str:
    try:
        return (folder / ABOUT).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _folders(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []


def _all_shards(directory: Path) -> list[tuple[Path, os.stat_result]]:
    paths = (path for folder in _folders(directory) for path in shards(folder))
    return [(path, stat) for path in paths if (stat := _stat(path))]


def _rows(path: Path) -> int:
    try:
        with open(path, "rb") as file:
            magic, _, rows, *_ = HEADER.unpack(file.read(HEADER.size))
    except (OSError, struct.error):
        return 0
    return rows if magic == MAGIC else 0


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f".*{SUFFIX}*.tmp"):
        stat = _stat(path)
        if stat and time.time() - stat.st_mtime > ABANDONED_SECONDS:
            remove(path)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # another process was faster
        return None


def remove(path: Path) -> bool:
    """Remove a file if possible; whether this call did."""
    try:
        path.unlink()
    except OSError:
        return False
    return True
