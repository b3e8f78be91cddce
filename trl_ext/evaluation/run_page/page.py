"""Write `report.html`, the page of a run: one self-contained file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl_ext.evaluation import results
from trl_ext.evaluation.run_page import about, answers, tables
from trl_ext.evaluation.run_page.records import Measured
from trl_ext.recipe import Recipe
from trl_ext.report import curves, html, summary
from trl_ext.runs.report import first_loss
from trl_ext.trainers.monitoring.callback import warnings_in

FILE = "report.html"

OPEN = 8
"""Prompts whose answers are open on the page; the others are folded."""


def write(directory: Path, recipe: Recipe, measured: Sequence[Measured]) -> Path:
    """Write the page of a run from the files in its directory.

    Args:
        directory: The run's directory.
        recipe: As the run recorded it.
        measured: What was measured of it (`trl_ext.evaluation.run_page.records`).
    """
    name, found = answers.of(measured)
    differing = [each for each in found if each.base != each.tuned]
    shown = answers.side_by_side(name, found)
    opened = min(OPEN, len(differing)) or min(1, len(shown))
    changed, others = about.settings(recipe)
    metrics = directory / "metrics.jsonl"
    html.write(
        directory / FILE,
        __package__,
        title=directory.resolve().name,
        trained=about.in_brief(recipe),
        brief=[*filter(None, [about.state(directory, recipe)]), *tables.in_brief(measured)],
        facts=about.facts(recipe),
        commands=about.commands(directory),
        changed={"headings": ["setting", "value", "default"], "rows": [list(each) for each in changed]},
        others={"headings": ["setting", "value"], "rows": [list(each[:2]) for each in others]},
        **(_training(metrics, recipe) if metrics.exists() else {}),
        all_curves=_picture(directory / "curves.png"),
        evaluations=tables.evaluations(measured),
        meanings=_meanings(measured),
        judged=tables.judged(measured),
        tasks=tables.tasks(measured),
        legend=tables.LEGEND,
        left_out=_left_out(measured),
        who=name,
        count=len(found),
        differing=len(differing),
        samples=shown[:opened],
        more_samples=shown[opened:],
        machine=about.machine(directory),
    )
    return directory / FILE


def _training(metrics: Path, recipe: Recipe) -> dict[str, Any]:
    """Large curves, the first and last logged values, and warnings."""
    return {
        "curves": curves.large_panels(curves.read(metrics), recipe.method.large_panels, first_loss(recipe)),
        "ends": [{"headings": [title, *steps], "rows": rows} for title, steps, rows in summary.ends(metrics) if rows],
        "warnings": [text for _, text in warnings_in(metrics)],
    }


def _picture(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def _meanings(measured: Sequence[Measured]) -> list[tuple[str, str]]:
    rows = [results.of_run(record) for each in measured for record in each.evaluations]
    return results.meanings(rows) if rows else []


def _left_out(measured: Sequence[Measured]) -> list[str]:
    """Sentences about records that are not shown."""
    found = []
    for each in measured:
        place = "" if each.is_run else f" of {each.name}"
        found += [
            f"{name}{place} is not shown: the run was trained further since. Repeat the evaluation."
            for name in each.outdated
        ]
        found += [f"{name}{place} is not shown: it is not a complete record." for name in each.unreadable]
    return found
