"""List pure functions by their declarations, or explain one: the common part of `losses` and `advantages`."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trl_ext.support import encoding, terminal
from trl_ext.support.errors import UserError
from trl_ext.support.messages import plain

WIDE = 130
"""Columns from which hyperparameters have a column of their own."""
NARROWEST = 80
"""Columns that a table needs: with fewer, names and numbers would be cut."""


OF_PYTHON = ("Args:", "Returns:", "Raises:")
"""Sections of a docstring for callers in Python; the tables above the text say the same to users of recipes."""


def examples(verb: str, name: str) -> str:
    """The examples of a verb that lists, with one of the names it lists."""
    return f"""examples:
  trl-ext {verb}
  trl-ext {verb} {name}
  trl-ext {verb} --json

exit code: 0 on success, 2 on a user error"""


def add_arguments(parser: argparse.ArgumentParser, what: str, completer: Callable[..., Iterable[str]]) -> None:
    """Add the arguments of a verb that lists.

    Args:
        what: What is listed, in the singular.
        completer: Gives the names.
    """
    name = parser.add_argument("name", metavar="NAME", nargs="?", help=f"explain this {what}")
    name.completer = completer
    parser.add_argument("--json", action="store_true", help="print JSON")


def described(package: Any, name: str) -> Any:
    """The declaration with this name, in small or capital letters.

    Args:
        package: `trl_ext.losses` or `trl_ext.rl.advantages`.

    Raises:
        UserError: There is none.
    """
    try:
        return package.describe(name.lower())
    except ValueError as error:
        raise UserError(str(error)) from error


def print_json(content: Any) -> None:
    print(encoding.as_json(content, indent=2))


def print_table(table: Callable[[bool], Any], *notes: str) -> None:
    """Print a table as wide as the terminal, and notes below it.

    Args:
        table: Makes it, for a wide terminal or a narrow one.
    """
    from rich.console import Console

    console = Console(highlight=False, width=max(Console().width, NARROWEST))
    console.print(table(console.width >= WIDE))
    for note in notes:
        console.print(note, style="dim", markup=False)


def names_and_formulas(infos: Iterable[Any], wide: bool, first: str, more: Mapping[str, Callable[[Any], str]]) -> Any:
    """A table with a row for each declaration: name, formula, hyperparameters, more facts, arXiv id.

    Args:
        infos: Declarations.
        wide: Hyperparameters have a column of their own.
        first: Heading of the names.
        more: Headings of more columns and their content.
    """
    from rich.text import Text

    table = terminal.plain_table()
    table.add_column(first, style="bold", no_wrap=True)
    table.add_column("formula" if wide else "formula, hyperparameters", ratio=3)
    if wide:
        table.add_column("hyperparameters", ratio=2)
    for heading in (*more, "arXiv"):
        table.add_column(heading, no_wrap=True)
    for info in infos:
        parameters = Text(_hyperparameters(info), style="dim")
        cells = [Text(info.formula), parameters] if wide else [Text.assemble(info.formula, "\n", parameters)]
        table.add_row(
            Text.assemble(info.name, *((f"\n= {alias}", "not bold dim") for alias in getattr(info, "aliases", ()))),
            *cells,
            *(content(info) for content in more.values()),
            info.paper.removeprefix("arXiv:"),
        )
    return table


def print_page(info: Any, rows: Mapping[str, str], meanings: Mapping[str, str], notation: str, text: str) -> None:
    """Print one declaration: formula, facts, hyperparameters, notation and description.

    Args:
        rows: Facts by their names; an empty one is left out.
        meanings: Of hyperparameters.
        notation: Symbols of the formula.
        text: The function's docstring.
    """
    console = terminal.console(markup=False)
    console.print(info.summary, style="bold")
    console.print(f"\n    {info.formula}\n")
    console.print(_facts(rows | {"paper": f"https://arxiv.org/abs/{info.paper.removeprefix('arXiv:')}"}))
    if info.hyperparameters:
        console.print(_knobs(info, meanings))
    console.print(f"{notation}.\n", style="dim")
    for paragraph in text.split("\n\n"):
        if paragraph.startswith(OF_PYTHON):
            continue
        console.print(" ".join(paragraph.split()), end="\n\n")


def _facts(rows: Mapping[str, str]) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for name, shown in rows.items():
        if shown:
            table.add_row(name, shown)
    return table


def _knobs(info: Any, meanings: Mapping[str, str]) -> Any:
    """A row for each hyperparameter: default, meaning, allowed values and when it applies."""
    table = terminal.plain_table()
    table.add_column("hyperparameter", no_wrap=True)
    table.add_column("default", no_wrap=True)
    table.add_column("meaning")
    alternatives = _alternatives(info)
    for key, value in info.hyperparameters.items():
        parts = [meanings.get(key, ""), info.kinds[key].phrase]
        if key in getattr(info, "only_with", {}):
            parts.append("only with {}: {}".format(*info.only_with[key]))
        if key in alternatives:
            parts.append(f"instead of {' or '.join(alternatives[key])}")
        table.add_row(key, "none" if value is None else plain(value), "; ".join(filter(None, parts)))
    return table


def _alternatives(info: Any) -> dict[str, list[str]]:
    """The hyperparameters that may be given instead of each one."""
    groups = getattr(info, "exclusive", ())
    return {key: [other for other in group if other != key] for group in groups for key in group}


def _hyperparameters(info: Any) -> str:
    """``beta 2.0, gamma_beta_ratio 0.25 (or gamma)``: names with defaults, alternatives in parentheses."""
    alternatives = _alternatives(info)
    return ", ".join(
        f"{key} {plain(value)}" + (f" (or {', '.join(alternatives[key])})" if key in alternatives else "")
        for key, value in info.hyperparameters.items()
        if value is not None
    )
