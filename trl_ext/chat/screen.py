"""Show answers: one after the other, side by side, or as JSON."""

import sys
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trl_ext.chat.side import TUNED, Side
from trl_ext.support import encoding

NARROWEST = 72
"""Width of a terminal, in columns, that has room for two answers side by side."""

Show = Callable[[list[Side], str, bool], None]
"""Answer a question by each side and show the answers. The last argument says whether Ctrl-C stops only the answer."""


def written(sides: list[Side], question: str, is_stoppable: bool) -> None:
    """Write plain text while it is generated. With several sides, each answer follows the side's name."""
    for side in sides:
        if len(sides) > 1:
            _out(f"{side.name}: ")
        side.answer(question, _out, is_stoppable=is_stoppable)
        _out("\n")


def as_json(sides: list[Side], question: str, is_stoppable: bool) -> None:
    """Write one line of JSON: `prompt`, the tuned model's `answer`, and `base_answer` if the base model answers too."""
    answers = {side.name: side.answer(question, lambda text: None, is_stoppable=is_stoppable) for side in sides}
    record = {"prompt": question, "answer": answers.pop(TUNED)}
    record |= {f"{name}_answer": text for name, text in answers.items()}
    _out(encoding.as_json(record) + "\n")


def side_by_side(sides: list[Side], question: str, is_stoppable: bool) -> None:
    """Show one column per side. While answers grow, only their last lines that fit the terminal are shown."""
    console = Console(highlight=False)
    answers = {side.name: "" for side in sides}
    with Live(console=console, transient=True, auto_refresh=False) as live:
        for side in sides:

            def write(text: str, name: str = side.name) -> None:
                answers[name] += text
                live.update(_columns(console, answers, console.height - 3), refresh=True)

            answers[side.name] = side.answer(question, write, is_stoppable=is_stoppable)
    console.print(_columns(console, answers))


def after_its_question(show: Show) -> Show:
    """Print the question before its answers, for questions that were not typed, and a blank line after them."""

    def shown(sides: list[Side], question: str, is_stoppable: bool) -> None:
        _out(f"> {question}\n")
        show(sides, question, is_stoppable)
        _out("\n")

    return shown


def best() -> Show:
    """Side by side if the terminal is wide enough, otherwise one after the other."""
    return side_by_side if sys.stdout.isatty() and Console().width >= NARROWEST else written


def _columns(console: Console, answers: dict[str, str], lines: int | None = None) -> Table:
    table = Table(box=None, expand=True, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    for name in answers:
        table.add_column(name, ratio=1)
    width = console.width // len(answers) - 3
    table.add_row(*(_end(Text(text.strip()), console, width, lines) for text in answers.values()))
    return table


def _end(text: Text, console: Console, width: int, lines: int | None) -> Text:
    """The last lines of a text wrapped to a width, or all of it if `lines` is not given."""
    return text if lines is None else Text("\n").join(text.wrap(console, width)[-lines:])


def _out(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
