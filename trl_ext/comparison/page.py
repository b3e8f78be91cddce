"""Write a comparison as one self-contained HTML page and as a CSV table."""

from __future__ import annotations

import base64
import csv
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from trl_ext.comparison.results import SCORE, gain
from trl_ext.evaluation.intervals import format_estimate


class Column(NamedTuple):
    """A column of the table: heading, key of a measurement, number format, and the function that picks the best value."""

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
    Column("ended", "ended", "{:.2f}"),
)
LEGEND = (
    "± is half the width of the 95 % interval; asymmetric intervals are written (from–to). Shaded: the best value, and values "
    "tied with it (overlapping intervals).",
    "Accuracy: share of held-out pairs whose chosen completion has the larger log-ratio log π − log π_base; ties count one "
    "half. Margin: mean difference of the two log-ratios. Chosen, rejected: mean log-ratio of each. KL: mean log-ratio of the "
    "run's own completions, summed over tokens. Tokens: mean length of sampled completions. Ended: share of sampled "
    "completions that ended before the token limit. Reward columns: means over sampled completions.",
    "All measures are independent of beta, so runs can be compared. Their losses cannot.",
)
MACHINE = {"seconds": ("training, s", "{:.0f}", 1), "peak_bytes": ("peak, GiB", "{:.2f}", 2**30)}
"""Cost of a run: heading, number format, and the divisor for its unit."""
COST = ("seconds", "peak_bytes", "peak_of", "cached", "computed")
"""Columns of the CSV file about the cost of a run."""
PEAKS = {
    "GPU": "Peak: maximum GPU memory allocated by PyTorch while the run was loaded and trained.",
    "process": "Peak: maximum main memory of the process while the run was loaded and trained. It includes Python, its "
    "libraries and the base that all runs share, so compare differences, not ratios.",
    None: "Peak memory is unknown. It is not recorded for runs that were finished earlier, nor on every system without a GPU.",
}
"""Sentence for each value of `peak_of`."""
TRADE_OFF = "A higher reward or accuracy usually costs KL, so compare runs at similar KL."


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
        measured: Rows of the runs (`trl_ext.comparison.evaluator`).
        base: Row of the base.
        pictures: Title, caption and PNG of each.
        facts: How the runs were evaluated, in sentences.
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
    """A line per run: name, loss, beta and seed, every measured mean with its 95 % interval, time and memory."""
    keys = [column.key for column in _columns(measured)]
    spread = [f"{key}{suffix}" for key in keys for suffix in ("", "_low", "_high")]
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["name", "loss", "beta", "seed", *spread, *COST])
        for run in measured:
            values = [(run.get(key) or {}).get(part) for key in keys for part in ("value", "low", "high")]
            rest = [run.get(key) for key in COST]
            writer.writerow([run["name"], run["loss"], run["beta"], run["seed"], *values, *rest])


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


def _columns(measured: Sequence[dict[str, Any]]) -> list[Column]:
    """Columns with a number in any row: first reward or accuracy, KL, then the other rewards, then the rest."""
    scores = dict.fromkeys(key for run in measured for key in run if key.startswith(SCORE))
    columns = [*(Column(key.removeprefix(SCORE), key, "{:.3f}", max) for key in scores), *COLUMNS]
    columns = [column for column in columns if any(run.get(column.key) for run in measured)]
    kl = [column for column in columns[1:] if column.key == "kl"]
    return [*columns[:1], *kl, *(column for column in columns[1:] if column not in kl)]


def table(measured: Sequence[dict[str, Any]], base: dict[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """Headings and cells of the table: the base first, then the runs, sorted by reward or accuracy.

    `is_best` marks the best value of a column and the values tied with it.

    Args:
        measured: Rows of the runs.
        base: Row of the base.
        without: Keys of columns to leave out.
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
        rows.append([_cell(run.get("name", "base")), *values, *(_cell(_cost(run, name)) for name in machine)])
    headings = ["", *(column.heading for column in columns), *(MACHINE[name][0] for name in machine)]
    return {"headings": headings, "rows": rows}


def _cost(run: dict[str, Any], name: str) -> str:
    _, form, unit = MACHINE[name]
    return form.format(run[name] / unit) if run.get(name) else ""


def _value(run: dict[str, Any], column: Column, best: dict[str, Any] | None) -> dict[str, Any]:
    found = run.get(column.key)
    if not found:
        return _cell("")
    return _cell(format_estimate(found, column.form), best is not None and (found == best or _overlap(found, best)))


def _cell(text: str, is_best: bool = False) -> dict[str, Any]:
    return {"text": text, "is_best": is_best}


def _side_by_side(measured: Sequence[dict[str, Any]], base: dict[str, Any]) -> list[dict[str, Any]]:
    """Prompts for which the base and every run sampled a completion, with the completions; the most varied first."""
    completed = [
        (run.get("name", "base"), {s["prompt"]: s["text"] for s in run.get("samples", ())})
        for run in (base, *measured)
    ]
    prompts = [prompt for prompt in completed[0][1] if all(prompt in completions for _, completions in completed)]
    prompts.sort(key=lambda prompt: -len({completions[prompt] for _, completions in completed}))
    return [
        {
            "prompt": prompt,
            "completions": [{"name": name, "text": completions[prompt]} for name, completions in completed],
        }
        for prompt in prompts
    ]
