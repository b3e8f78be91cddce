"""The look of tables on a terminal. Imports rich on use, which takes longer than a verb's help may."""

from typing import Any


def table(first: str = "", *numbers: str, **options: Any) -> Any:
    """A `rich.table.Table` with a rule under its headings.

    Args:
        first: Heading of the first column, which is of words.
        numbers: Headings of columns of numbers, to the right and never broken.
        options: Of the table.
    """
    made = plain(**options)
    made.add_column(first)
    for heading in numbers:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def plain(**options: Any) -> Any:
    """The same, without columns yet."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, **options)
