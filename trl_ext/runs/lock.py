"""Let one command at a time write into a run directory."""

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from trl_ext.support.errors import UserError

FILE = "_lock"
"""Lock file, in the directory while a run writes there; its leading underscore keeps it out of uploads. The system frees the
lock of a process that dies, so a file left behind locks nothing."""


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Keep other commands out of a directory. It is created if missing, and removed again if it stays empty.

    With several processes, the main one locks for all. Nothing is locked on a file system without locks.

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
        pass  # a directory that cannot be written to is reported when the run writes there
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
    """Raise the error of `writing` if another run holds the lock."""
    if (directory / FILE).exists():
        with writing(directory):
            pass


def _refusal(directory: Path) -> str:
    try:
        holder = (directory / FILE).read_text(encoding="utf-8")
    except OSError:
        holder = ""
    return (
        f"Another run is writing to {directory} ({holder or 'just started'}). Wait until it ends, or choose another "
        "`output_dir`."
    )
