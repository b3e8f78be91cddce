"""One command at a time writes into a directory."""

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from trl_ext.support.errors import UserError

FILE = "_lock"
"""In the directory while it is written; uploads leave out names that begin like this. The system frees the lock of a process
that dies: a file it left behind locks nothing."""


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Keep other commands out of a directory, which is made if it is not there and removed again if nothing came into it.

    Of several processes the main one does so for all. Where the file system has no locks, nobody is kept out.

    Raises:
        UserError: Another process is inside. The directory is left as it is.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    path = directory / FILE
    lock = FileLock(path, fallback_to_soft=False)  # a soft lock would outlive a process that is killed
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
        path.write_text(f"process {os.getpid()}, since {datetime.now():%Y-%m-%d %H:%M}", encoding="utf-8")
    except Timeout as error:
        raise UserError(_refusal(directory)) from error
    except (OSError, NotImplementedError):
        pass  # what cannot be written to says so when the run is, in its own words
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                path.unlink()  # while it is held, so that nobody else's is removed
            lock.release()
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()  # fails if something is in it


def refuse_if_written(directory: Path) -> None:
    """Raise what `writing` would, before anything is said of what the directory holds."""
    if (directory / FILE).exists():
        with writing(directory):
            pass


def _refusal(directory: Path) -> str:
    try:
        holder = (directory / FILE).read_text(encoding="utf-8")
    except OSError:
        holder = ""
    return (
        f"{directory} is being written by another run ({holder or 'just started'}): wait for it, or name another "
        "`output_dir`."
    )
