"""Find the format of rows whose compared completions stand in other columns, once these are called chosen and rejected."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from trl_ext.data.formats import alpaca, hh, orca, parallel_turns, sharegpt, trl_types
from trl_ext.data.formats.match import Match
from trl_ext.data.formats.row_outcome import Note
from trl_ext.data.formats.sample import Row, Sample

SIDES = ("chosen", "rejected")
INNER = (sharegpt, hh, orca, alpaca, trl_types)
EXAMPLE = {"role": "user", "content": ""}
"""A message as `parallel_turns.joined` makes them."""


def match_pair(sample: Sample, used: Sequence[str], pairs: Sequence[tuple[Row, tuple]]) -> Match | None:
    """The match of the other columns with some pairs of completions.

    Args:
        sample: The rows as they are stored.
        used: Columns of the completions and of what compares them.
        pairs: Rows of the sample, each with two of its completions.

    Returns:
        A match whose `read` takes a row of the source with its pair under `SIDES`, and whose `columns` are `used` and those of the
        prompt; `None` if the other columns are of no known format.
    """
    rest = [name for name in sample.columns if name not in (*used, *SIDES)]
    rows = [{name: row.get(name) for name in rest} | dict(zip(SIDES, pair, strict=True)) for row, pair in pairs]
    in_turns = "prompt" in rest and parallel_turns.are_in(rows, ("prompt", *SIDES))
    if in_turns:
        rows = [{name: [EXAMPLE] for name in SIDES}]
    seen = Sample((*(name for name in rest if not (in_turns and name == "prompt")), *SIDES), rows)
    found = next((match for module in INNER if (match := module.match(seen)) is not None and match.paired), None)
    if found is None or found.cuts_text:  # what two texts happen to share is not their prompt
        return None
    beside = [name for name in rest if name in found.columns or (in_turns and name == "prompt")]
    read = functools.partial(_read_turns, read=found.read) if in_turns else found.read
    return dataclasses.replace(found, read=read, columns=(*beside, *used))


def _read_turns(row: Row, notes: set[Note], *, read: Callable[[Row, set[Note]], Row]) -> Row:
    return read(parallel_turns.joined(row, "prompt", SIDES), notes)


def renamed(match: Match, names: tuple[str, str]) -> Match:
    """A match of `match_pair` that reads the pair from the columns `names`."""
    return dataclasses.replace(match, read=functools.partial(_read_renamed, read=match.read, names=names))


def _read_renamed(row: Row, notes: set[Note], *, read: Callable[[Row, set[Note]], Row], names: tuple[str, str]) -> Row:
    return read(row | dict(zip(SIDES, map(row.get, names), strict=True)), notes)
