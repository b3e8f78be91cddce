"""A comparison as one self-contained page, and as a table for spreadsheets."""

from __future__ import annotations

import base64
import csv
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from trl_ext.comparison.measure import SCORE, gain


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
    "± half the 95 % interval. Accuracy: share of held-out pairs whose chosen answer has the larger log π − log π_base, ties "
    "counting one half. Margin: mean difference of the two. Chosen, rejected: mean of each. Scores: what reward functions "
    "give to sampled completions. KL: mean log π − log π_base of the "
    "policy's own completions, summed over tokens. Tokens, that end: of sampled completions. No beta is in any of them, so "
    "rows compare; their losses would not."
)


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
    shown = [
        {"title": heading, "caption": caption, "data": base64.b64encode(path.read_bytes()).decode("ascii")}
        for heading, caption, path in pictures
    ]
    text = environment.get_template("page.html.j2").render(
        title=title,
        summary=summary(measured),
        table=table(measured, base),
        legend=LEGEND,
        pictures=shown,
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
        writer.writerow(["name", "loss", "beta", "seed", *spread, "seconds", "peak_bytes", "cached", "computed"])
        for run in measured:
            values = [(run.get(key) or {}).get(part) for key in keys for part in ("value", "low", "high")]
            rest = [run[key] for key in ("seconds", "peak_bytes", "cached", "computed")]
            writer.writerow([run["name"], run["loss"], run["beta"], run["seed"], *values, *rest])


def summary(measured: Sequence[dict[str, Any]]) -> str:
    """Which run gained most and which moved least, in a sentence, as far as the intervals tell them apart."""
    key, what = gain(measured)
    known = [run for run in measured if run.get(key)]
    if len(known) < 2:
        return ""
    first, *others = sorted(known, key=lambda run: -run[key]["value"])
    level = [run["name"] for run in others if _reaches(run[key], first[key])]
    said = [f"{first['name']} has the highest {what}: {first[key]['value']:.3f}{_tied(level)}."]
    nearest, *others = sorted((run for run in known if run.get("kl")), key=lambda run: run["kl"]["value"]) or [None]
    if nearest:
        level = [run["name"] for run in others if _reaches(nearest["kl"], run["kl"])]
        nats = abs(round(nearest["kl"]["value"], 2))
        said.append(f"{nearest['name']} stays nearest to the base, at {nats:.2f} nats per completion{_tied(level)}.")
    return " ".join([*said, "More of one usually costs the other: compare runs at the same KL."])


def _tied(names: list[str]) -> str:
    return f", not told apart from {', '.join(names)} by these samples" if names else ""


def _reaches(figure: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the intervals of two figures overlap, the first being the lower."""
    high, low = figure["high"], other["low"]
    return high is None or low is None or high >= low


def _columns(measured: Sequence[dict[str, Any]]) -> list[Column]:
    """Those with a figure in any row; scores first."""
    scores = dict.fromkeys(key for run in measured for key in run if key.startswith(SCORE))
    columns = [*(Column(key.removeprefix(SCORE), key, "{:.3f}", max) for key in scores), *COLUMNS]
    return [column for column in columns if any(run.get(column.key) for run in measured)]


def table(measured: Sequence[dict[str, Any]], base: dict[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """Headings and rows of what is shown, the base first; `is_best` marks the best of a column where one is.

    Args:
        measured: Rows of the runs.
        base: Row of the base.
        without: Keys that are left out.
    """
    columns = [column for column in _columns(measured) if column.key not in without]
    best = {
        column.key: column.best(run[column.key]["value"] for run in measured if run.get(column.key))
        for column in columns
        if column.best and len(measured) > 1
    }
    rows = [
        [_cell(base.get("name", "base")), *(_value(base, column, None) for column in columns), _cell(""), _cell("")]
    ]
    for run in measured:
        values = [_value(run, column, best.get(column.key)) for column in columns]
        peak = f"{run['peak_bytes'] / 2**30:.1f}" if run["peak_bytes"] else ""
        rows.append(
            [_cell(run["name"]), *values, _cell(f"{run['seconds']:.0f}" if run["seconds"] else ""), _cell(peak)]
        )
    return {"headings": ["", *(column.heading for column in columns), "training, s", "peak, GiB"], "rows": rows}


def _value(run: dict[str, Any], column: Column, best: float | None) -> dict[str, Any]:
    found = run.get(column.key)
    if not found:
        return _cell("")
    half = 0 if found["low"] is None else (found["high"] - found["low"]) / 2
    spread = f" ± {column.form.replace('+', '').format(half)}" if half else ""
    text = column.form.format(found["value"])
    text = text if float(text) else text.replace("-", "")  # no minus before a rounded zero
    return _cell(text + spread, found["value"] == best)


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
