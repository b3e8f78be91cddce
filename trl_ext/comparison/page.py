"""A comparison as one self-contained page, and as a table for spreadsheets."""

from __future__ import annotations

import base64
import csv
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from trl_ext.comparison.measure import SCORE, gain
from trl_ext.evaluation.intervals import shown


class Column(NamedTuple):
    """A column of the table: a heading, the key of a measurement, how it is written, and which value is best."""

    heading: str
    key: str
    form: str
    best: Any = None


COLUMNS = (
    Column("accuracy on held-out data", "accuracy", "{:.3f}", max),
    Column("margin, nats", "margin", "{:.2f}"),
    Column("KL to the base, nats", "kl", "{:.2f}"),
    Column("chosen, nats", "chosen", "{:+.2f}"),
    Column("rejected, nats", "rejected", "{:+.2f}"),
    Column("tokens", "length", "{:.1f}"),
    Column("that end", "ended", "{:.2f}"),
)
LEGEND = (
    "± half the 95 % interval, or (from–to) where it is not symmetric. Shaded: the best, and what the data do not separate "
    "from it, since the intervals overlap. Accuracy: share of held-out pairs whose chosen answer has the larger log π − log π_base, ties "
    "counting one half. Margin: mean difference of the two. Chosen, rejected: mean of each. Scores: what reward functions "
    "give to sampled completions. KL: mean log π − log π_base of the "
    "policy's own completions, summed over tokens. Tokens, that end: of sampled completions. No beta is in any of them, so "
    "rows compare; their losses would not."
)
MACHINE = {"seconds": ("training, s", "{:.0f}", 1), "peak_bytes": ("peak, GiB", "{:.2f}", 2**30)}
"""What a run took: heading, how it is written, and in units of what."""
TAKEN = ("seconds", "peak_bytes", "peak_of", "cached", "computed")
"""Of it, what the table for spreadsheets has."""
PEAKS = {
    "GPU": "Peak: the most GPU memory that PyTorch gave out while a run was loaded and trained.",
    "process": "Peak: the most main memory of the process while a run was loaded and trained. Python, its libraries and the base "
    "that all runs share are in it, so compare differences, not ratios.",
    None: "No peak of memory is known: runs that were finished before do not tell it, nor does every system without a GPU.",
}
"""What `peak_of` means."""


def write(
    page: Path,
    title: str,
    measured: Sequence[dict[str, Any]],
    base: dict[str, Any],
    pictures: Sequence[tuple[str, str, Path]],
    facts: Sequence[str],
) -> None:
    """Write the page.

    Args:
        page: The HTML file.
        title: Its heading.
        measured: Rows of the runs (`trl_ext.comparison.measure`).
        base: Row of the base.
        pictures: Title, caption and PNG of each.
        facts: How it was made, a sentence each.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trl_ext.comparison", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    images = [
        {"title": heading, "caption": caption, "data": base64.b64encode(path.read_bytes()).decode("ascii")}
        for heading, caption, path in pictures
    ]
    text = environment.get_template("page.html.j2").render(
        title=title,
        summary=summary(measured, base),
        table=table(measured, base),
        legend=legend(measured),
        pictures=images,
        samples=_side_by_side(measured, base),
        facts=facts,
    )
    page.write_text(text, encoding="utf-8")


def write_csv(file: Path, measured: Sequence[dict[str, Any]]) -> None:
    """A line per run: what it was, every measured mean with its 95 % interval, time and memory."""
    keys = [column.key for column in _columns(measured)]
    spread = [f"{key}{suffix}" for key in keys for suffix in ("", "_low", "_high")]
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["name", "loss", "beta", "seed", *spread, *TAKEN])
        for run in measured:
            values = [(run.get(key) or {}).get(part) for key in keys for part in ("value", "low", "high")]
            rest = [run.get(key) for key in TAKEN]
            writer.writerow([run["name"], run["loss"], run["beta"], run["seed"], *values, *rest])


def legend(measured: Sequence[dict[str, Any]]) -> list[str]:
    """What the columns are, a paragraph each."""
    peaks = dict.fromkeys(run["peak_of"] for run in measured if run.get("peak_of"))
    return [LEGEND, *(PEAKS[of] for of in peaks or [None])]


def summary(measured: Sequence[dict[str, Any]], base: dict[str, Any]) -> str:
    """Which run gained most and which moved least, in a sentence, as far as the intervals tell them apart."""
    key, what = gain(measured)
    known = [run for run in measured if run.get(key)]
    if len(known) < 2:
        return ""
    first, *others = sorted(known, key=lambda run: -run[key]["value"])
    level = [run["name"] for run in (*others, base) if _overlap(run.get(key), first[key])]
    said = [f"{first['name']} has the highest {what}: {shown(first[key], '{:.3f}')}{_tied(level)}."]
    nearest, *others = sorted((run for run in known if run.get("kl")), key=lambda run: run["kl"]["value"]) or [None]
    if nearest:
        level = [run["name"] for run in others if _overlap(nearest["kl"], run["kl"])]
        nats = shown(nearest["kl"], "{:.2f}")
        said.append(f"{nearest['name']} stays nearest to the base, at {nats} nats per completion{_tied(level)}.")
    return " ".join([*said, "More of one usually costs the other: compare runs at the same KL."])


def _tied(names: list[str]) -> str:
    return f", not separated from {', '.join(names)} by the data" if names else ""


def _overlap(figure: dict[str, Any] | None, other: dict[str, Any]) -> bool:
    """Whether the intervals of two figures overlap, as far as is known: a single value has none."""
    if not figure:
        return False
    return None in (figure["low"], other["low"]) or (figure["low"] <= other["high"] and other["low"] <= figure["high"])


def _columns(measured: Sequence[dict[str, Any]]) -> list[Column]:
    """Those with a figure in any row: what was gained and its price, then the other scores, then the rest."""
    scores = dict.fromkeys(key for run in measured for key in run if key.startswith(SCORE))
    columns = [*(Column(key.removeprefix(SCORE), key, "{:.3f}", max) for key in scores), *COLUMNS]
    columns = [column for column in columns if any(run.get(column.key) for run in measured)]
    price = [column for column in columns[1:] if column.key == "kl"]
    return [*columns[:1], *price, *(column for column in columns[1:] if column not in price)]


def table(measured: Sequence[dict[str, Any]], base: dict[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """Headings and rows of what is shown: the base, then the runs, those that gained most first.

    `is_best` marks the best of a column, where one is, and what the intervals do not separate from it.

    Args:
        measured: Rows of the runs.
        base: Row of the base.
        without: Keys that are left out.
    """
    columns = [column for column in _columns(measured) if column.key not in without]
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
        rows.append([_cell(run.get("name", "base")), *values, *(_cell(_taken(run, name)) for name in machine)])
    headings = ["", *(column.heading for column in columns), *(MACHINE[name][0] for name in machine)]
    return {"headings": headings, "rows": rows}


def _taken(run: dict[str, Any], name: str) -> str:
    _, form, unit = MACHINE[name]
    return form.format(run[name] / unit) if run.get(name) else ""


def _value(run: dict[str, Any], column: Column, best: dict[str, Any] | None) -> dict[str, Any]:
    found = run.get(column.key)
    if not found:
        return _cell("")
    return _cell(shown(found, column.form), best is not None and (found == best or _overlap(found, best)))


def _cell(text: str, is_best: bool = False) -> dict[str, Any]:
    return {"text": text, "is_best": is_best}


def _side_by_side(measured: Sequence[dict[str, Any]], base: dict[str, Any]) -> list[dict[str, Any]]:
    """Prompts that the base and every run answered, with the answers; those with most different ones first."""
    answered = [
        (run.get("name", "base"), {s["prompt"]: s["text"] for s in run.get("samples", ())})
        for run in (base, *measured)
    ]
    prompts = [prompt for prompt in answered[0][1] if all(prompt in answers for _, answers in answered)]
    prompts.sort(key=lambda prompt: -len({answers[prompt] for _, answers in answered}))
    return [
        {"prompt": prompt, "answers": [{"name": name, "text": answers[prompt]} for name, answers in answered]}
        for prompt in prompts
    ]
