"""How answers are shown: written one after the other, side by side, or as JSON."""

import json
import sys
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trl_ext.chat.side import TUNED, Side

NARROWEST = 72
"""Columns of a terminal in which two answers have room beside each other."""

Show = Callable[[list[Side], str, bool], None]
"""Answer a question by each side and show it; the last argument says whether Ctrl-C stops an answer or all."""


def written(sides: list[Side], question: str, is_stoppable: bool) -> None:
    """Plain text as it comes; of several sides each after its name."""
    for side in sides:
        if len(sides) > 1:
            _out(f"{side.name}: ")
        side.answer(question, _out, is_stoppable=is_stoppable)
        _out("\n")


def as_json(sides: list[Side], question: str, is_stoppable: bool) -> None:
    """One line: `prompt`, `answer` of the tuned model, and `base_answer` where there is one."""
    answers = {side.name: side.answer(question, lambda text: None, is_stoppable=is_stoppable) for side in sides}
    record = {"prompt": question, "answer": answers.pop(TUNED)}
    record |= {f"{name}_answer": text for name, text in answers.items()}
    _out(json.dumps(record, ensure_ascii=False) + "\n")


def side_by_side(sides: list[Side], question: str, is_stoppable: bool) -> None:
    """A column for each side. While answers grow, only as much of their ends is shown as the terminal has lines for."""
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
    """The same below the question, and a blank line: what was not typed is not on the screen yet."""

    def shown(sides: list[Side], question: str, is_stoppable: bool) -> None:
        _out(f"> {question}\n")
        show(sides, question, is_stoppable)
        _out("\n")

    return shown


def best() -> Show:
    """Side by side in a terminal that is wide enough, else one after the other."""
    return side_by_side if sys.stdout.isatty() and Console().width >= NARROWEST else written


def _columns(console: Console, answers: dict[str, str], lines: int | None = None) -> Table:
    table = Table(box=None, expand=True, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    for name in answers:
        table.add_column(name, ratio=1)
    width = console.width // len(answers) - 3
    table.add_row(*(_end(Text(text.strip()), console, width, lines) for text in answers.values()))
    return table


def _end(text: Text, console: Console, width: int, lines: int | None) -> Text:
    """The last lines of a text once it is broken to a width; all of it if `lines` is not given."""
    return text if lines is None else Text("\n").join(text.wrap(console, width)[-lines:])


def _out(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
