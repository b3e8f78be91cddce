"""List, clear and limit the reference cache on disk: one folder per identity, with shards and a description.

It imports only the standard library and trl-ext's errors, so that commands can list and clear the cache without loading
anything. Files with unknown names (of another format or program) are never touched.
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
"""Default size limit of the whole cache, in bytes: about nine million completions of 300 tokens."""

SUFFIX = ".ref1"  # includes the format version: files of other versions are not opened
MAGIC = b"trlxref1"
HEADER = struct.Struct("<8s16sQQ16s")
"""Header of a shard: magic, digest of the identity, number of rows, file size, digest of these and of the index."""

ABOUT = "about.txt"
ABANDONED_SECONDS = 3600
"""Writing a temporary file takes seconds. One older than this was left by a process that died."""


@dataclass(frozen=True)
class Entry:
    """The cached completions of one reference."""

    identity: str
    about: str
    """Description of the reference; empty if there is none."""
    rows: int
    """Number of stored completions. A completion stored by two processes at once counts twice."""
    bytes: int
    files: int
    last_used: float
    """Seconds since the epoch, accurate to about ten minutes."""


def default_directory() -> Path:
    """`$TRL_EXT_CACHE` if it is set, otherwise `~/.cache/trl-ext/reference`."""
    given = os.environ.get("TRL_EXT_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "trl-ext" / "reference"


def default_limit() -> int:
    """Maximum size of the cache in bytes: `$TRL_EXT_CACHE_GIB` if it is set, otherwise `LIMIT_BYTES`.

    Raises:
        UserError: The variable is not a number above 0.
    """
    given = os.environ.get("TRL_EXT_CACHE_GIB")
    if not given:
        return LIMIT_BYTES
    with contextlib.suppress(ValueError, OverflowError):
        if (limit := int(float(given) * 2**30)) > 0:
            return limit
    raise UserError(
        f"TRL_EXT_CACHE_GIB is {given!r}. Set it to the size limit of the reference cache in GiB, a number above 0."
    )


def identity_folder(directory: Path, identity: str) -> Path:
    """Folder of one identity.

    Raises:
        ValueError: `identity` is not a valid name of a folder.
    """
    if not re.fullmatch(r"\w[\w.-]{0,127}", identity, re.ASCII):
        raise ValueError(
            f"The identity {identity!r} is not a valid name of a folder. Use 1 to 128 letters, digits, '_', '-' or '.', for "
            "example the hexadecimal digest that `reference_identity` returns."
        )
    return directory / identity


def shards(folder: Path) -> list[Path]:
    """Complete shards of one identity, in no particular order."""
    try:
        return [folder / name for name in os.listdir(folder) if name.endswith(SUFFIX) and name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []


def entries(directory: Path | None = None) -> list[Entry]:
    """List the cached references, last used first."""
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
    """Remove the whole cache, or one identity, and return the number of bytes freed.

    Processes that use the cache meanwhile compute missing rows again.
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
        with contextlib.suppress(OSError):  # contains other files, or is being written to
            folder.rmdir()
    return freed


def evict(directory: Path, limit_bytes: int, keep: Path) -> int:
    """Remove the least recently used shards until the cache is within `limit_bytes`, and return how many were removed.

    `keep`, which was just written, stays whatever its size.
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
    """Write a description for people who look at the cache. No code relies on it."""
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
    """Remove a file if possible. Returns whether it was removed."""
    try:
        path.unlink()
    except OSError:
        return False
    return True
