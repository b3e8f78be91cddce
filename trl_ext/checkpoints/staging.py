"""Written aside, synced, renamed: a directory that is either not there or whole, whatever happens meanwhile."""

import errno
import os
import shutil
from pathlib import Path

from trl_ext.support import atomic

FOLDER = "_unfinished"
"""Where a checkpoint lies while it is written: a name nothing resumes from, and that pushes to the Hub leave out."""


def clear(directory: Path) -> None:
    """Remove what a run that was killed in the middle of a save left in its directory."""
    shutil.rmtree(directory / FOLDER, ignore_errors=True)


def publish(staged: Path, final: Path) -> None:
    """Give a staged directory its name, once all of it is on disk.

    Both on one file system. A directory that has the name already is replaced.
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


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of Python, safetensors or torch means that there is no room left to write."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    # safetensors and torch write by themselves: one quotes the system, the other only says that writing failed.
    text = str(error)
    if any(os.strerror(number) in text for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
        return True
    if isinstance(error, RuntimeError) and ("PytorchStreamWriter" in text or "inline_container" in text):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_disk_full(cause)
