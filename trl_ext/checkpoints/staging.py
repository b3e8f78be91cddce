"""Write a directory atomically: under another name, synced to disk, then renamed."""

import errno
import os
import shutil
from pathlib import Path

from trl_ext.support import atomic

FOLDER = "_unfinished"
"""Name of a checkpoint while it is written. Nothing resumes from it, and uploads to the Hub leave it out."""


def clear(directory: Path) -> None:
    """Remove the unfinished checkpoint of a run that was killed during a save."""
    shutil.rmtree(directory / FOLDER, ignore_errors=True)


def publish(staged: Path, final: Path) -> None:
    """Rename a staged directory to its final name, after all of it is on disk.

    Both must be on one file system. An existing directory of that name is replaced.
    """
    for folder, _, names in os.walk(staged):
        for name in names:
            atomic.sync(Path(folder, name))
        atomic.sync(Path(folder))
    if final.exists():
        final.rename(staged.with_name("replaced"))
    staged.rename(final)
    atomic.sync(final.parent)
    shutil.rmtree(staged.parent)


def require_growth(file: Path) -> None:
    """Find out whether the disk is full after another program failed to write a file, which it may report in other words.

    Raises:
        OSError: The file cannot grow by the megabyte that is written to its end.
    """
    with file.open("ab") as written:
        written.write(bytes(2**20))
        written.flush()
        os.fsync(written.fileno())


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of Python, safetensors or torch means that the disk is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    # safetensors quotes the system's message; torch only reports that writing failed.
    text = str(error)
    if any(os.strerror(number) in text for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
        return True
    if isinstance(error, RuntimeError) and ("PytorchStreamWriter" in text or "inline_container" in text):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_disk_full(cause)
