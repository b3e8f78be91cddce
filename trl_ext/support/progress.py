"""Show how far a loop is and how long it will take: a bar on a terminal, a line now and then elsewhere."""

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

SECONDS_BETWEEN_LINES = 30.0
"""Of a loop whose output is no terminal."""
PERIOD = 600.0
"""Seconds that the estimate of the time left looks back: items come in batches, which take long."""


class Progress:
    """Watches one loop after another.

    Attributes:
        done: For each loop so far its title, the items that are done, and their number.
    """

    def __init__(self, console: Any) -> None:
        self._console = console
        self.done: dict[str, tuple[int, int]] = {}

    def watch(self, items: Iterable, total: int, title: str) -> Iterator:
        """The items, while showing how many of them are done.

        Args:
            items: An item counts as done as soon as it is given.
            total: Their number.
            title: What they are, in the plural.
        """
        shown = self._bar if self._console.is_terminal else self._lines
        self.done[title] = (0, total)
        for number, item in enumerate(shown(items, total, title), 1):
            self.done[title] = (number, total)
            yield item

    def _bar(self, items: Iterable, total: int, title: str) -> Iterator:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        with Bar(
            *columns, console=self._console, transient=True, speed_estimate_period=PERIOD, disable=self._console.quiet
        ) as bar:
            yield from bar.track(items, total, description=title)

    def _lines(self, items: Iterable, total: int, title: str) -> Iterator:
        """A thread prints the lines: items of a batch come all at once, and the first of them would give a wrong estimate."""
        start = last = time.monotonic()
        number, ended = 0, threading.Event()

        def say() -> None:
            while not ended.wait(SECONDS_BETWEEN_LINES):
                left = (last - start) / number * (total - number) - (time.monotonic() - last) if number else None
                estimate = "" if left is None else f", about {duration(max(left, 0))} left"
                self._console.print(f"{title}: {number:,} of {total:,}{estimate}", markup=False)

        thread = threading.Thread(target=say, daemon=True)
        thread.start()
        try:
            for item in items:
                number, last = number + 1, time.monotonic()
                yield item
        finally:
            ended.set()
            thread.join()


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
