"""Print to the console while a progress bar is shown."""

import contextlib
from collections.abc import Iterator

from accelerate import Accelerator
from tqdm import tqdm

from trl_ext.support import terminal
from trl_ext.support.run_log import log


def say(accelerator: Accelerator, text: str, *, is_warning: bool = False) -> None:
    """Print `text` once per run, on the main process, wrapped for a terminal and without breaking the progress bar.

    With `--quiet` only warnings are printed. Everything is in the log of the run, without what `about` puts before it.
    """
    if _is_hushed and not is_warning:
        detail(accelerator, text)
    elif accelerator.is_main_process:
        if is_warning or not terminal.is_quiet():
            tqdm.write(terminal.wrap(f"{_about}{text}"))
        log.add(text)


def detail(accelerator: Accelerator, text: str) -> None:
    """Add `text` to the log of the run, on the main process. It is printed if there is no log, as without the command line."""
    if accelerator.is_main_process and not log.add(text):
        tqdm.write(terminal.wrap(text))


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """What trainers say during the block is a detail: here they only score, and their sentences are about training."""
    global _is_hushed
    before, _is_hushed = _is_hushed, True
    try:
        yield
    finally:
        _is_hushed = before


_is_hushed = False
_about = ""


@contextlib.contextmanager
def about(run: str) -> Iterator[None]:
    """What trainers print during the block begins with the name of a run, one of several that a command carries out."""
    global _about
    before, _about = _about, f"{run}: "
    try:
        yield
    finally:
        _about = before
