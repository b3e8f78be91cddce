"""Write a comparison's page, pictures and table into one directory, and print the table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trl_ext.comparison import page, pictures, tournament_table
from trl_ext.comparison.page import Shown
from trl_ext.evaluation import results
from trl_ext.runs import environment, finished
from trl_ext.support import counts, terminal

PAGE, TABLE, FRONTIER, MOVEMENT = "report.html", "comparison.csv", "frontier.png", "movement.png"

PAGE_ONLY = ("margin", "chosen", "rejected", "ended", "seconds", "peak_bytes")
"""Columns for which a terminal has no room."""

NOT_IN_ROWS = ("evaluation_seconds", "asked")
"""Parts of a record that do not describe the run."""


def write(
    directory: Path,
    title: str,
    records: Sequence[dict[str, Any]],
    runs: dict[str, Path],
    console: Any,
    judged: Sequence[dict[str, Any]] = (),
    answers: Mapping[str, Sequence[dict[str, Any]]] | None = None,
) -> None:
    """Write the page with its pictures and the CSV table, and print the results.

    Args:
        directory: Directory for all files.
        title: Title of the page.
        records: Records of the runs (`trl_ext.comparison.evaluator`).
        runs: Directory of each run, by name.
        console: The table and a summary are printed to it.
        judged: Records of the judges (`trl_ext.comparison.tournament`).
        answers: Answers that were judged, by the name of the run; shown if nothing else was sampled.
    """
    directory.mkdir(parents=True, exist_ok=True)
    steps = {name: finished.last_step(run) for name, run in runs.items()}
    rows = [
        results.of_run(
            **{key: value for key, value in record.items() if key not in NOT_IN_ROWS}, steps=steps[record["name"]]
        )
        for record in records
    ]
    base = results.of_base(records[0]["evaluation"])
    for row in (base, *rows):
        row.setdefault("samples", (answers or {}).get(row["name"], ()))
    drawn = _draw(directory, rows, base, runs)
    pages = {name: _link(run, directory) for name, run in runs.items()}
    page.write(directory / PAGE, title, rows, base, drawn, facts(records[0]["evaluation"]), judged, pages)
    page.write_csv(directory / TABLE, rows)
    if records[0]["evaluation"]:
        console.print(table(rows, base))
        console.print(page.summary(rows, base), markup=False)
    for record in judged:
        console.print()
        console.print(tournament_table.for_terminal(record))
        for sentence in tournament_table.sentences(record):
            console.print(sentence, markup=False)
    console.print(f"report   {directory / PAGE}\ntable    {directory / TABLE}")


def _link(run: Path, directory: Path) -> str | None:
    """The page of a run, as a link from the directory; `None` if it has none."""
    file = finished.home(run) / PAGE
    return quote(os.path.relpath(file, directory).replace(os.sep, "/")) if file.exists() else None


def facts(evaluation: dict[str, Any] | None) -> list[str]:
    """How the runs were evaluated, in sentences."""
    versions = ", ".join(f"{name} {version}" for name, version in environment.describe()["packages"].items()) + "."
    if evaluation is None:
        return ["Only the judge compared the runs. They were not evaluated on preferences.", versions]
    data, sampled = evaluation["data"], evaluation.get("sampled")
    count, unit = data.get("pairs", data.get("answers")), "pairs" if "pairs" in data else "labelled completions"
    seen = "Some or all of them were used for training." if data["was_trained_on"] else "None was used for training."
    found = [f"Held-out data: {counts.count(count, unit)} of {data['name']}. {seen}"]
    if sampled:
        found.append(
            f"Sampled per run: {counts.count(sampled['n'], 'completions')} of up to {sampled['max_new_tokens']} tokens, at temperature 1."
        )
    return [
        *found,
        f"The base is {evaluation['reference']}.",
        f"Intervals: {evaluation['intervals']}.",
        versions,
    ]


def table(rows: list[dict[str, Any]], base: dict[str, Any]) -> Any:
    """A table for a terminal; the best values and those tied with them are bold."""
    content = page.table(rows, base, without=PAGE_ONLY)
    made = terminal.plain_table()
    for number, heading in enumerate(content["headings"]):
        width = max(map(len, heading.split()), default=0)
        made.add_column(heading, justify="right" if number else "left", min_width=width)
    for line in content["rows"]:
        made.add_row(*(f"[bold]{cell['text']}[/bold]" if cell["is_best"] else cell["text"] for cell in line))
    return made


def _draw(directory: Path, rows: Sequence[dict[str, Any]], base: dict[str, Any], runs: dict[str, Path]) -> list[Shown]:
    """The pictures for the page; each is also a file."""
    drawn = []
    if any(row.get("kl") for row in rows):
        pictures.frontier(directory / FRONTIER, rows, base)
        caption = (
            "Higher is better; further left is nearer to the base. Bars are 95 % intervals. A line joins runs of one loss that "
            "differ in beta."
        )
        title = "Reward or accuracy against KL"
        drawn.append(Shown(title, caption, {title: (directory / FRONTIER).read_bytes()}))
    metrics = {name: run / "metrics.jsonl" for name, run in runs.items()}
    if not any(row.get("length") for row in rows) and not pictures.log_ratios(
        metrics, {row["name"]: row["seed"] for row in rows}
    ):
        return drawn
    pictures.movement(directory / MOVEMENT, metrics, rows, base)
    caption = (
        "log π − log π_base, measured on the training batches. Losses that depend only on the difference may lower both "
        "log-ratios. If the log-ratio of chosen completions falls far, probability moves to other completions than those in the "
        "data. A run is missing if its loss reads no reference and no other run saw the same batches."
    )
    drawn.append(Shown("Log-ratios during training", caption, pictures.movement_panels(metrics, rows, base)))
    return drawn
