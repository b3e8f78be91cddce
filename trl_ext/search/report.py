"""Write the result of a search, a recipe, a page and `search.json`, and print a table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from trl_ext.recipe import load, reader
from trl_ext.runs import environment
from trl_ext.runs.recorded import without_location
from trl_ext.search import page, result
from trl_ext.search import study as studies
from trl_ext.search.result import FINISHED, STOPPED, Row
from trl_ext.search.trial import Objective
from trl_ext.support import atomic, terminal
from trl_ext.support.counts import count
from trl_ext.support.intervals import format_estimate

BEST, RECORD, PAGE = "best.yaml", "search.json", "report.html"
SHOWN = 8
"""Trials in the table on a terminal."""


def write(made: optuna.Study, objective: Objective, title: str, why: str, console: Any) -> None:
    """Write the files and print the result.

    Args:
        made: The study.
        objective: Of the search.
        title: Name of the recipe.
        why: Why the search ended.
        console: Prints.
    """
    settings, directory, measure = objective.settings, objective.directory, objective.measurer.name
    found = result.rows(made)
    studies.keep_base(made, objective.base)
    base = made.user_attrs.get(studies.BASE)
    best = result.best(found, settings.max_kl)
    shares = result.importances(made, settings, base["value"]) if base else {}
    said = sentences(found, best, base, settings.max_kl, measure)
    command = None
    if best is None:
        (directory / BEST).unlink(missing_ok=True)
    else:
        write_recipe(objective, best, directory / BEST)
        command = f"trl-ext run {shlex.quote(str(directory / BEST))}"
    record = {
        "recipe": objective.path,
        "measure": measure,
        "settings": asdict(settings),
        "space": objective.space.to_dict(),
        "base": base,
        "best": best and best.number,
        "frontier": [each.number for each in result.frontier(found, base)],
        "importances": shares,
        "trials": [asdict(each) for each in found],
    }
    atomic.write_json(directory / RECORD, record)
    if not any(each.value or each.rungs for each in found):
        console.print(" ".join([*said, why]), markup=False)
        return
    page.write(
        directory / PAGE, f"{title}: search over {count(len(found), 'trials')}", [*said, why], command, found, base, best, shares,
        settings, measure, facts(objective),
    )  # fmt: skip
    console.print(table(found, base, best, measure))
    for sentence in [*said, why]:
        console.print(sentence, markup=False)
    if shares:
        console.print(
            "importance: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items()), markup=False
        )
    if best is not None:
        console.print(f"recipe   {directory / BEST}", markup=False)
    console.print(f"page     {directory / PAGE}\ntrials   {directory / RECORD}", markup=False)
    if command:
        console.print(f"next: {command}", markup=False)


def write_recipe(objective: Objective, best: Row, path: Path) -> None:
    """Write the best trial as a recipe."""
    recipe = load(objective.path, {**objective.overrides, "search": None, **best.settings})
    values = without_location(recipe).values
    kl = best.kl["value"]
    head = (
        f"# {recipe.name}.yaml with the settings of trial {best.number} of a search: {result.in_words(best.settings)}\n"
        f"# {objective.measurer.name} {best.value['value']:.3f} at a KL of {kl:.2f} nats per completion, on held-out prompts.\n"
        f"# trl-ext run {path}\n\n"
    )
    atomic.write_text(path, head + reader.write(values))


def sentences(
    found: Sequence[Row], best: Row | None, base: Mapping[str, Any] | None, max_kl: float, measure: str
) -> list[str]:
    """The result in words."""
    n = {state: sum(each.state == state for each in found) for state in (FINISHED, STOPPED)}
    counted = f"{count(n[FINISHED], 'trials')} finished, {n[STOPPED]:,} stopped early."
    if best is None:
        nearest = min((each for each in found if each.kl), key=lambda each: each.kl["value"], default=None)
        if nearest is None:
            return [f"No trial has a result yet. {counted}"]
        return [
            f"No trial has a KL of at most {max_kl:g} nats; the smallest is {nearest.kl['value']:.2f} (trial {nearest.name}). Raise "
            f"`--max_kl`, or widen the ranges towards lower learning rates or fewer steps. {counted}"
        ]
    first = f"Best: trial {best.name}, {result.in_words(best.settings)}. "
    numbers = f"{measure} {format_estimate(best.value, '{:.3f}')} at KL {format_estimate(best.kl, '{:.2f}')}"
    own = next((each for each in found if each.is_recipe and each.value), None)
    of_base = f", base {base['value']:.3f}" if base else ""
    said = [f"{first}{numbers}{of_base}. {counted}"]
    if own is not None and own.number != best.number:
        said.append(
            f"The recipe as it is: {measure} {format_estimate(own.value, '{:.3f}')} at KL {format_estimate(own.kl, '{:.2f}')}."
        )
    return said


def facts(objective: Objective) -> list[str]:
    """How trials were compared, in sentences."""
    settings = objective.settings
    shares = ", ".join(f"{share:.0%}" for _, share in settings.shares)
    versions = ", ".join(f"{name} {version}" for name, version in environment.describe()["packages"].items())
    return [
        objective.measurer.in_words(),
        f"A result has a KL of at most {settings.max_kl:g} nats per completion.",
        *(
            [
                f"{settings.pruner} with a reduction factor of {settings.reduction_factor}; rungs at {shares} of a trial's steps, compared at equal KL."
            ]
            if shares
            else []
        ),
        *objective.space.in_words(),
        f"{versions}, optuna {optuna.__version__}.",
    ]


def table(found: Sequence[Row], base: Mapping[str, Any] | None, best: Row | None, measure: str) -> Any:
    """The best finished trials for a terminal."""
    content = page.finished(found, base, best, measure)
    made = terminal.plain_table()
    for number, heading in enumerate(content["headings"]):
        made.add_column(heading, justify="right" if number else "left")
    for line in content["rows"][: SHOWN + 1]:
        made.add_row(
            *(f"[bold]{cell['text']}[/bold]" if cell["is_best"] else cell["text"] for cell in map(_cell, line))
        )
    return made


def _cell(cell: Any) -> dict[str, Any]:
    return cell if isinstance(cell, dict) else {"text": cell, "is_best": False}
