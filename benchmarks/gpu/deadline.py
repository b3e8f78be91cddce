"""An end to the time a command may take, whatever it is doing then."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AGAIN = 1.0
"""Seconds until it is raised once more: where Python runs a finaliser, what is raised is printed and lost."""


class OutOfTime(BaseException):
    """Time is up."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Inside, `OutOfTime` is raised after so many seconds, and again until it is `heard`."""

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
    """From here on nothing is raised any more."""
    signal.setitimer(signal.ITIMER_REAL, 0)
