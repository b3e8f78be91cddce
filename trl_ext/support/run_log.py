"""Keep the log of a run, `run.log` in its directory: everything that is printed, and details that only the log has.

The log is opened before the run's directory is known to be needed. Until `begin`, lines are kept in memory; a run that is
refused before it begins leaves no file.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from trl_ext.support import terminal

FILE = "run.log"

BEGINNING = re.compile(r"^=== (\S+ \S+) .*\n(trl-ext .*)$", re.MULTILINE)
"""A command that wrote to the log: when it began, and the command itself."""


class RunLog:
    """The log of one run at a time. Nothing is kept while no log is open."""

    def __init__(self) -> None:
        self._waiting: list[str] | None = None
        self._file: TextIO | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Keep lines during the block. A block inside another one has a log of its own, unless the outer log has begun: a run
        that is evaluated at its end has one log.
        """
        if self._file is not None:
            yield
            return
        before, self._waiting, self._file = (self._waiting, self._file), [], None
        try:
            yield
        finally:
            if self._file is not None:
                with contextlib.suppress(OSError):  # a full disk
                    self._file.close()
            self._waiting, self._file = before

    def begin(self, directory: Path, heading: str) -> None:
        """Write the lines so far and all that follow into the directory's log, after those of earlier commands."""
        if self._waiting is None:
            return
        with contextlib.suppress(OSError):
            self._file = (directory / FILE).open("a", encoding="utf-8")
        lines, self._waiting = self._waiting, []
        self.add(f"=== {datetime.now():%Y-%m-%d %H:%M:%S} {heading}")
        for line in lines:
            self.add(line)

    def add(self, text: str) -> bool:
        """Add lines. Returns whether a log is open."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write(f"{text.rstrip()}\n")
                self._file.flush()
        elif self._waiting is not None:
            self._waiting.append(text)
        return self._waiting is not None


def commands(directory: Path) -> list[tuple[str, str]]:
    """The commands that trained the run of a directory: when each began, and what was typed. Empty without a log."""
    file = directory / FILE
    return BEGINNING.findall(file.read_text(encoding="utf-8", errors="replace")) if file.exists() else []


log = RunLog()
"""The log of this process."""


class LoggedConsole:
    """A console whose prints are also added to the log, unwrapped and without colours.

    Args:
        console: A `rich.console.Console`.
    """

    def __init__(self, console: Any) -> None:
        self._console = console._console if isinstance(console, LoggedConsole) else console

    def print(self, *objects: Any, **options: Any) -> None:
        """As `rich.console.Console.print`."""
        self._console.print(*objects, **options)
        text = io.StringIO()
        with terminal.quiet(False):
            terminal.console(file=text).print(*objects, **options)
        log.add(text.getvalue())

    def detail(self, text: str) -> None:
        """Add a line to the log alone; print it if no log is open."""
        if not log.add(text):
            self._console.print(text, markup=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._console, name)
