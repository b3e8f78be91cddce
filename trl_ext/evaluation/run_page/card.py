"""Write the results of a run into its model card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from trl_ext.evaluation.run_page import answers, tables
from trl_ext.evaluation.run_page.records import Measured
from trl_ext.report import card_blocks
from trl_ext.support.counts import count

SHOWN = 3
"""Prompts in the card."""

LONGEST = 600
"""Characters of a prompt or an answer."""

SPECIAL = re.compile(r"[\\`*_\[\]<>&|~$@]|:(?=//)|(?<=www)\.")
"""Characters that Markdown or HTML would not show as they are inside of a line."""


def write(directory: Path, measured: Sequence[Measured]) -> None:
    """Replace the results in the card of a run; everything else in it stays as it is.

    A run without a card gets none. Results of checkpoints are left out: the card is that of the run's own weights.

    Args:
        directory: The run's directory.
        measured: What was measured of the run (`trl_ext.evaluation.run_page.records`).
    """
    card_blocks.put_results(directory / "README.md", render([each for each in measured if each.is_run]))


def render(measured: Sequence[Measured]) -> str:
    """The results as Markdown; empty if nothing was measured."""
    content = "\n".join([*_tables(measured), *_samples(measured)])
    return f"## Results\n\n{content}" if content else ""


def _tables(measured: Sequence[Measured]) -> Iterator[str]:
    found = [tables.judged(measured), *tables.evaluations(measured), *tables.tasks(measured)]
    for table in filter(None, found):
        yield f"### {escaped(table.title)}\n"
        yield _row(table.headings)
        yield "|" + "---|" * len(table.headings)
        yield from map(_row, table.rows)
        yield "\n" + " ".join(map(escaped, table.notes)) + "\n"
    if any(each.has_results for each in measured):
        yield f"{tables.LEGEND}\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"


def _samples(measured: Sequence[Measured]) -> Iterator[str]:
    name, found = answers.of(measured)
    if not found:
        return
    yield "### Samples\n"
    yield _row(["prompt", "base", name])
    yield "|---|---|---|"
    for each in found[:SHOWN]:
        yield _row([_short(text) for text in (each.prompt, each.base, each.tuned)])
    yield f"\nChosen from {count(len(found), 'prompts')}: those on which the answers differ most.\n"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def escaped(text: str) -> str:
    """A text that Markdown and HTML show as it is, in one line: special characters as entities, line ends as `<br>`."""
    return "<br>".join(SPECIAL.sub(lambda match: f"&#{ord(match[0])};", text.strip()).splitlines())
