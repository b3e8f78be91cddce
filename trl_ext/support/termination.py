"""End a command on SIGTERM and SIGHUP as on Ctrl-C: by an exception, so that nothing is left half written."""

import os
import signal
import time
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
EXIT_CODE = 130

SAME = 0.25
"""Seconds within which several signals count as one: `timeout` and terminals signal the process and its group."""


class Interrupted(KeyboardInterrupt):
    """Raised where a signal stopped the process. The message names what is kept, if anything."""


def end_as_on_ctrl_c() -> None:
    """From now on the first signal raises `Interrupted` in the main thread, and another one ends the process at once.

    Signals that are ignored or handled already stay so. Children that are forked keep the default, without a traceback.
    """
    process, terminals, first = os.getpid(), [stream for stream in (1, 2) if os.isatty(stream)], []

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process or (first and time.monotonic() - first[0] > SAME):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if first or os.getpid() != process:
            return
        first.append(time.monotonic())
        if number == getattr(signal, "SIGHUP", None):
            leave(terminals)
        raise Interrupted

    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


def leave(terminals: list[int]) -> None:
    """Let these streams lead nowhere, because their terminal is closed and writing to it would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in terminals:
        os.dup2(nowhere, stream)
