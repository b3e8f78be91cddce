"""Write a comparison as one self-contained HTML page and as a CSV table."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.comparison import samples, tournament_table
from trl_ext.evaluation.results import Measure, gain, meanings, measures
from trl_ext.report import html
from trl_ext.support.intervals import format_estimate

LEGEND = (
    "± is half the width of the 95 % interval; asymmetric intervals are written (from–to). Shaded: the best value, and values "
    "tied with it (overlapping intervals).",
    "All measures are independent of beta, so runs can be compared. Their losses cannot.",
)
SETTINGS = {"loss": "loss", "beta": "beta", "learning_rate": "learning rate", "steps": "steps", "seed": "seed"}
"""Settings of a run that the page lists: key and heading."""
MACHINE = {"seconds": ("training, s", "{:.0f}", 1), "peak_bytes": ("peak, GiB", "{:.2f}", 2**30)}
"""Cost of a run: heading, number format, and the divisor for its unit."""
COST = ("seconds", "peak_bytes", "peak_of", "cached", "computed", "command")
"""Columns of the CSV file about the cost of a run, and the command that repeats it."""
PEAKS = {
    "GPU": "Peak: maximum GPU memory allocated by PyTorch while the run was loaded and trained.",
    "process": "Peak: maximum main memory of the process while the run was loaded and trained. It includes Python, its "
    "libraries and the base that all runs share, so compare differences, not ratios.",
    None: "Peak memory is unknown. It is not recorded for runs that were finished earlier, nor on every system without a GPU.",
}
"""Sentence for each value of `peak_of`."""
OPEN = 8
"""Prompts whose completions are open on the page; the others are folded."""
TRADE_OFF = "A higher reward or accuracy usually costs KL, so compare runs at similar KL."


class Shown(NamedTuple):
    """Pictures that belong together: title, caption, and title and PNG of each."""

    title: str
    caption: str
    images: Mapping[str, bytes]


def write(
    page: Path,
    title: str,
    measured: Sequence[dict[str, Any]],
    base: dict[str, Any],
    pictures: Sequence[Shown],
    facts: Sequence[str],
    judged: Sequence[dict[str, Any]] = (),
    pages: Mapping[str, str | None] | None = None,
) -> None:
    """Write the page.

    Args:
        page: The HTML file.
        title: Its heading.
        measured: Rows of the runs (`trl_ext.comparison.evaluator`).
        base: Row of the base.
        pictures: The pictures.
        facts: How the runs were evaluated, in sentences.
        judged: Records of the judges (`trl_ext.comparison.tournament`).
        pages: A link to the page of each run that has one, by name.
    """
    found = samples.side_by_side(measured, base)
    html.write(
        page,
        "trl_ext.comparison",
        title=title,
        summary=summary(measured, base),
        table=table(measured, base),
        settings=settings(measured),
        commands=[(run["name"], run["command"]) for run in measured if run.get("command")],
        pages={name: link for name, link in (pages or {}).items() if link},
        is_evaluated=bool(measures(measured)),
        legend=legend(measured),
        meanings=meanings(measured),
        pictures=pictures,
        samples=found[:OPEN],
        more_samples=found[OPEN:],
        facts=facts,
        judged=[tournament_table.table(record) | {"notes": tournament_table.sentences(record)} for record in judged],
    )


def settings(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Headings and cells of the table of settings, without those that no run has."""
    keys = [key for key in SETTINGS if any(run.get(key) is not None for run in measured)]
    rows = [[run["name"], *(_plain(run.get(key)) for key in keys)] for run in measured]
    return {"headings": ["run", *(SETTINGS[key] for key in keys)], "rows": rows}


def _plain(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def write_csv(file: Path, measured: Sequence[dict[str, Any]]) -> None:
    """A line per run: its settings, every measured mean with its 95 % interval, time, memory and command."""
    keys = [measure.key for measure in measures(measured)]
    spread = [f"{key}{suffix}" for key in keys for suffix in ("", "_low", "_high")]
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["name", *SETTINGS, *spread, *COST])
        for run in measured:
            values = [(run.get(key) or {}).get(part) for key in keys for part in ("value", "low", "high")]
            writer.writerow([run["name"], *map(run.get, SETTINGS), *values, *map(run.get, COST)])


def legend(measured: Sequence[dict[str, Any]]) -> list[str]:
    """Explanations of the columns, one paragraph each."""
    peaks = dict.fromkeys(run["peak_of"] for run in measured if run.get("peak_of"))
    return [*LEGEND, *(PEAKS[of] for of in peaks or [None])]


def summary(measured: Sequence[dict[str, Any]], base: dict[str, Any]) -> str:
    """Name the run with the highest reward or accuracy and the one nearest to the base, with ties by 95 % intervals."""
    key, what = gain(measured)
    known = [run for run in measured if run.get(key)]
    if len(known) < 2:
        return ""
    first, *others = sorted(known, key=lambda run: -run[key]["value"])
    ties = [run["name"] for run in (*others, base) if _overlap(run.get(key), first[key])]
    found = [f"{first['name']} has the highest {what}: {format_estimate(first[key], '{:.3f}')}.{_tied(ties)}"]
    nearest, *others = sorted((run for run in known if run.get("kl")), key=lambda run: run["kl"]["value"]) or [None]
    if nearest:
        ties = [run["name"] for run in others if _overlap(nearest["kl"], run["kl"])]
        nats = format_estimate(nearest["kl"], "{:.2f}")
        found.append(f"{nearest['name']} has the lowest KL to the base: {nats} nats per completion.{_tied(ties)}")
    return " ".join([*found, TRADE_OFF])


def _tied(names: list[str]) -> str:
    return f" Tied with it (overlapping 95 % intervals): {', '.join(names)}." if names else ""


def _overlap(figure: dict[str, Any] | None, other: dict[str, Any]) -> bool:
    """Whether two intervals overlap. A number without an interval counts as overlapping."""
    if not figure:
        return False
    return None in (figure["low"], other["low"]) or (figure["low"] <= other["high"] and other["low"] <= figure["high"])


def table(measured: Sequence[dict[str, Any]], base: dict[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """Headings and cells of the table: the base first, then the runs, sorted by reward or accuracy.

    `is_best` marks the best value of a column and the values tied with it.

    Args:
        measured: Rows of the runs.
        base: Row of the base.
        without: Keys of columns to leave out.
    """
    columns = measures(measured, without)
    best = {
        column.key: column.best((run[column.key] for run in measured if run.get(column.key)), key=lambda f: f["value"])
        for column in columns
        if column.best and len(measured) > 1
    }
    machine = [name for name in MACHINE if name not in without and any(run.get(name) for run in measured)]
    rows = []
    key, _ = gain(measured)
    for run in (base, *sorted(measured, key=lambda run: -(run.get(key) or {"value": 0})["value"])):
        values = [_value(run, column, None if run is base else best.get(column.key)) for column in columns]
        rows.append([_cell(run.get("name", "base")), *values, *(_cell(_cost(run, name)) for name in machine)])
    headings = ["", *(column.name for column in columns), *(MACHINE[name][0] for name in machine)]
    return {"headings": headings, "rows": rows}


def _cost(run: dict[str, Any], name: str) -> str:
    _, form, unit = MACHINE[name]
    return form.format(run[name] / unit) if run.get(name) else ""


def _value(run: dict[str, Any], column: Measure, best: dict[str, Any] | None) -> dict[str, Any]:
    found = run.get(column.key)
    if not found:
        return _cell("")
    return _cell(format_estimate(found, column.form), best is not None and (found == best or _overlap(found, best)))


def _cell(text: str, is_best: bool = False) -> dict[str, Any]:
    return {"text": text, "is_best": is_best}
