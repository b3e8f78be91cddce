"""Find a run that is trained, and whose recipe asks for an evaluation that is not complete.

`evaluation.json` in the run directory says what was evaluated as the recipe says. It is written when all of it is done, so an
evaluation that fails or is killed leaves none, and the same command continues with the evaluation.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from trl_ext.model_files import model
from trl_ext.recipe import Recipe, reader
from trl_ext.recipe.resolved import RESOLVED
from trl_ext.runs import lock, recorded, resume
from trl_ext.support import atomic
from trl_ext.support.errors import UserError

FILE = "evaluation.json"


def note_complete(directory: Path, evaluation: dict[str, Any]) -> None:
    """Record that an evaluation of the run in a directory is complete.

    Args:
        directory: The run's directory.
        evaluation: The entries of `evaluation` in the run's recipe.
    """
    atomic.write_json(directory / FILE, {"evaluation": evaluation})


def is_complete(directory: Path, evaluation: dict[str, Any]) -> bool:
    """Whether the run in a directory was evaluated like this."""
    try:
        return json.loads((directory / FILE).read_text(encoding="utf-8"))["evaluation"] == evaluation
    except (OSError, ValueError, LookupError, TypeError):
        return False


def trained_run(recipe: Recipe) -> Path | None:
    """The directory of a run that a command repeats, if it is trained and its evaluation is all that is left to do.

    It is the run in `output_dir`. Without `output_dir` it is the latest run of the recipe, if it was begun with the same evaluation;
    a run that was begun without one is complete, and the command trains another.

    Args:
        recipe: The recipe of the command.
    """
    checkpoint = recipe.get("resume_from_checkpoint")
    names_checkpoint = isinstance(checkpoint, str) and checkpoint.lower() not in ("true", "false")
    if recipe.evaluation is None or names_checkpoint or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return None
    directory = _directory(recipe)
    if directory is None or not _is_trained(directory) or not _is_same(recipe, directory):
        return None
    lock.refuse_if_written(directory)
    evaluation = recorded.without_location(recipe).evaluation
    if is_complete(directory, evaluation):
        return None
    was_begun_so = reader.read(directory / RESOLVED).values.get(recorded.AFTER_TRAINING) == evaluation
    return directory if recipe.get("output_dir") or checkpoint or was_begun_so else None


def record_evaluation(recipe: Recipe, directory: Path) -> None:
    """Write the evaluation of a recipe into the recipe of a run that is trained already, where they differ."""
    evaluation = recorded.without_location(recipe).evaluation
    resolved = directory / RESOLVED
    document = reader.read(resolved)
    if document.values.get(recorded.AFTER_TRAINING) != evaluation:
        title = resolved.read_text(encoding="utf-8").partition("\n")[0]
        atomic.write_text(
            resolved, f"{title}\n{reader.write(document.values | {recorded.AFTER_TRAINING: evaluation})}"
        )


def _directory(recipe: Recipe) -> Path | None:
    if recipe.get("output_dir"):
        return Path(recipe.get("output_dir"))
    if recipe.path.name == RESOLVED:
        taken = resume.runs_named(recipe.path.resolve().parent.name)
    else:
        taken = resume.runs_named(resume.run_name(recipe))
    return taken[-1] if taken else None


def _is_trained(directory: Path) -> bool:
    """Whether the result is there and whole."""
    return (directory / RESOLVED).exists() and resume.is_finished(directory) and model.problem(str(directory)) is None


def _is_same(recipe: Recipe, directory: Path) -> bool:
    """Whether the recipe trains what the run in the directory trained."""
    try:
        return not recorded.differences(recipe, directory)
    except UserError:
        return False
