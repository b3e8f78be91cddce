"""Train and evaluate the runs of a grid one after the other on one loaded base, resuming what was interrupted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_ext.build.shared_base import SharedBase
from trl_ext.comparison.evaluator import Evaluator, describe
from trl_ext.comparison.grid import Cell
from trl_ext.evaluation.run_page.records import OF_COMPARISON
from trl_ext.evaluation.run_page.update import refresh
from trl_ext.runs import recorded, resume, run
from trl_ext.runs.report import draw_curves
from trl_ext.runs.signals import Interrupted, guard
from trl_ext.support import atomic
from trl_ext.support.errors import UserError
from trl_ext.support.run_log import log

if TYPE_CHECKING:
    from rich.console import Console

MEASURED = OF_COMPARISON
"""Record of a run that is trained and evaluated; such a run is not repeated."""
HOW_TO_RESUME = "Run the same command again to resume."


def refuse_others(cells: list[Cell], directory: Path) -> None:
    """Refuse a directory that has runs of the same names with other settings.

    Raises:
        UserError: Settings differ; names them.
    """
    for cell in cells:
        resolved = directory / cell.name / "recipe.resolved.yaml"
        if not resolved.exists():
            continue
        if changed := recorded.differences(cell.recipe, directory / cell.name):
            named = ", ".join(f"{key} was {was!r} and is {now!r}" for key, (was, now) in [*changed.items()][:4])
            raise UserError(
                f"{directory} already has a comparison with other settings: {named}. Choose another `--output_dir`, or remove "
                f"{directory / cell.name} to train that run again."
            )


def train(cells: list[Cell], directory: Path, console: Console, evaluator: Evaluator) -> list[dict[str, Any]]:
    """Train and evaluate the runs that are not finished yet.

    Args:
        cells: The grid.
        directory: Directory of the comparison; each run gets a subdirectory with its name.
        console: Progress is printed to it.
        evaluator: Evaluates a run while its adapter is still on the base. The record is kept as `measured.json`. If a record
            was made with other evaluation settings, the run is evaluated again but not trained again.

    Returns:
        A record per cell, in the same order.
    """
    base = SharedBase()
    cells = _as_begun(cells, directory)
    found = []
    for number, cell in enumerate(cells, 1):
        home = directory / cell.name
        heading = f"[bold]{cell.name}[/bold] ({number} of {len(cells)})"
        if (home / MEASURED).exists():
            record = json.loads((home / MEASURED).read_text(encoding="utf-8"))
            if record["asked"] == evaluator.settings:
                console.print(f"{heading}: already finished")
            else:
                console.print(f"{heading}: already trained, evaluated again with the new settings")
                evaluation = evaluator.evaluate_finished(cell.name, home)["evaluation"]
                record |= {"asked": evaluator.settings, "evaluation": evaluation}
                atomic.write_json(home / MEASURED, record)
                refresh(home, console.print, cell.recipe)
            found.append(record | describe(cell.name, cell.recipe, cell.command))
            continue
        checkpoint = resume.latest_checkpoint(home)
        if checkpoint is None:
            shutil.rmtree(home, ignore_errors=True)  # stopped before its first checkpoint
        console.print(f"{heading}: {'resuming from ' + checkpoint if checkpoint else 'training'}")
        for note in cell.recipe.notes:
            console.print(note)
        lender = base if cell.recipe.get("use_peft") else None  # full fine-tuning leaves no base to share
        try:
            with log.open():
                log.add(cell.command)
                trained = run.train(cell.recipe, home, checkpoint, console, lender)
        except Interrupted as error:
            raise Interrupted(HOW_TO_RESUME) from error
        guard.last_words = lambda: HOW_TO_RESUME
        draw_curves(cell.recipe, home)
        record = evaluator.evaluate_trained(cell, trained) | {"asked": evaluator.settings}
        atomic.write_json(home / MEASURED, record)
        refresh(home, console.print, cell.recipe)
        found.append(record)
        trained.built.trainer.accelerator.end_training()
        if lender is not None:
            lender.take_back(trained.built.trainer)
    return found


def _as_begun(cells: list[Cell], directory: Path) -> list[Cell]:
    """The grid, with all its data read as that of the runs that the directory already holds."""
    recorded = [resume.as_recorded(cell.recipe, directory / cell.name) for cell in cells]
    precedes = any(recipe.precedes_apply_chat_template for recipe in recorded)
    return [
        dataclasses.replace(cell, recipe=dataclasses.replace(cell.recipe, precedes_apply_chat_template=precedes))
        for cell in cells
    ]
