"""The runs of a grid, trained one after the other on one base, each going on where it was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trl_ext.build.shared_base import SharedBase
from trl_ext.comparison.grid import Cell
from trl_ext.recipe import Recipe, load
from trl_ext.runs import resume, run
from trl_ext.runs.signals import Interrupted, guard
from trl_ext.support import atomic
from trl_ext.support.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

MEASURED = "measured.json"
"""In the directory of a run that is trained and measured: nothing of it is repeated."""
HOW_TO_GO_ON = "The same command goes on where this one stopped."
SETTLED = {"row_tokens", "resume_from_checkpoint", "output_dir"}
"""Settings that a resolved recipe holds and a grid does not, or the other way round."""


def refuse_others(cells: list[Cell], directory: Path) -> None:
    """Refuse a directory that holds runs of the same names and other settings.

    Raises:
        UserError: With the settings that differ.
    """
    for cell in cells:
        resolved = directory / cell.name / "recipe.resolved.yaml"
        if not resolved.exists():
            continue
        was, now = _settings(load(resolved)), _settings(run.without_place(cell.recipe))
        if changed := sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key)):
            named = ", ".join(f"{key} was {was.get(key)!r} and is {now.get(key)!r}" for key in changed[:4])
            raise UserError(
                f"{directory} holds a comparison with other settings ({named}): choose another `--output_dir`, or remove "
                f"{directory / cell.name} to repeat that run."
            )


class Measures(Protocol):
    """Judges runs; `trl_ext.comparison.judging.Judge` does."""

    @property
    def asked(self) -> dict[str, Any]:
        """What is measured, and how much of it, as plain values."""

    def trained(self, cell: Cell, trained: run.Trained) -> dict[str, Any]:
        """A record of a run that is still in memory."""

    def finished(self, name: str, directory: Path) -> dict[str, Any]:
        """A record of a run that is loaded for it."""


def train(cells: list[Cell], directory: Path, console: Console, judge: Measures) -> list[dict[str, Any]]:
    """Train and measure what is not finished yet.

    Args:
        cells: The grid.
        directory: Each run goes into a directory of its name in there.
        console: Where progress is printed.
        judge: Measures a run whose adapter is still on the base. The record is kept as `measured.json`; one of another
            measurement is made anew, without training again.

    Returns:
        A measurement per cell, in their order.
    """
    base = SharedBase()
    found = []
    for number, cell in enumerate(cells, 1):
        home = directory / cell.name
        heading = f"[bold]{cell.name}[/bold] ({number} of {len(cells)})"
        if (home / MEASURED).exists():
            record = json.loads((home / MEASURED).read_text(encoding="utf-8"))
            if record["asked"] == judge.asked:
                console.print(f"{heading}: finished before")
            else:
                console.print(f"{heading}: trained before, measured anew")
                record |= {"asked": judge.asked, "evaluation": judge.finished(cell.name, home)["evaluation"]}
                atomic.write_json(home / MEASURED, record)
            found.append(record)
            continue
        checkpoint = resume.latest_checkpoint(home)
        if checkpoint is None:
            shutil.rmtree(home, ignore_errors=True)  # stopped before its first checkpoint
        console.print(f"{heading}: {'goes on from ' + checkpoint if checkpoint else 'training'}")
        for note in cell.recipe.notes:
            console.print(note)
        lender = base if cell.recipe.get("use_peft") else None  # training all weights leaves no base to share
        try:
            trained = run.train(cell.recipe, home, checkpoint, console, lender)
        except Interrupted as error:
            raise Interrupted(HOW_TO_GO_ON) from error
        guard.last_words = lambda: HOW_TO_GO_ON
        run.draw_curves(cell.recipe, home)
        record = judge.trained(cell, trained) | {"asked": judge.asked}
        atomic.write_json(home / MEASURED, record)
        found.append(record)
        trained.built.trainer.accelerator.end_training()
        if lender is not None:
            lender.take_back(trained.built.trainer)
    return found


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.values.items() if key not in SETTLED}
