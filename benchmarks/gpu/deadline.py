"""Stop a command after a time limit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AGAIN = 1.0
"""Seconds until the exception is raised again: in a finaliser, Python prints and discards it."""


class OutOfTime(BaseException):
    """The time limit is reached."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Inside, `OutOfTime` is raised after this time, repeatedly until `heard` is called."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        heard()
        signal.signal(signal.SIGALRM, before)


def heard() -> None:
    """Stop raising `OutOfTime`."""
    signal.setitimer(signal.ITIMER_REAL, 0)
