"""Consoles and tables for a terminal or a pipe. rich is imported on use: it takes longer than a verb's help may."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

UNBROKEN = 10_000
"""Width of a console that is no terminal, in characters: nothing is wrapped or cut for scripts."""


_quiet = ContextVar("quiet", default=False)


@contextmanager
def quiet(is_quiet: bool = True) -> Iterator[None]:
    """Inside, consoles print nothing and progress is not shown. Errors, and warnings during training, are still printed."""
    token = _quiet.set(is_quiet)
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Whether only errors and warnings are to be printed."""
    return _quiet.get()


def console(**options: Any) -> Any:
    """A `rich.console.Console` that wraps text by words on a terminal, and not at all in a pipe or file.

    Args:
        options: Of the console.
    """
    from rich.console import Console

    options["quiet"] = options.get("quiet", False) or is_quiet()
    made = Console(highlight=False, **options)
    return made if made.is_terminal else Console(highlight=False, width=UNBROKEN, **options)


def table(first: str = "", *numbers: str, **options: Any) -> Any:
    """A `rich.table.Table` with a rule under its headings.

    Args:
        first: Heading of the first column, which holds words.
        numbers: Headings of the columns of numbers, which are right-aligned and never broken.
        options: Of the table.
    """
    made = plain_table(**options)
    made.add_column(first)
    for heading in numbers:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def plain_table(**options: Any) -> Any:
    """The same table, without columns yet."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, **options)


def wrap(text: str, stream: TextIO | None = None, indent: int | None = None) -> str:
    """Wrap text by words for a terminal. Text for a pipe or a file is returned unchanged.

    Args:
        text: One or several lines.
        stream: What the text will be written to; standard output if not given.
        indent: Columns before the continuation of a line. If not given, a continuation begins where the text of an
            indented or numbered line begins.
    """
    if not (stream or sys.stdout).isatty():
        return text
    return "\n".join(_wrap_line(line, shutil.get_terminal_size().columns, indent) for line in text.split("\n"))


def _wrap_line(line: str, width: int, indent: int | None) -> str:
    if indent is None:
        indent = len(re.match(r"\s*(?:\d+\. )?", line)[0])
    return textwrap.fill(line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
