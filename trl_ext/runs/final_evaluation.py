"""Carry out the evaluation that a recipe asks for, once its run is trained and complete."""

from __future__ import annotations

import os
import shlex
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl_ext.recipe import Recipe
from trl_ext.runs import hub
from trl_ext.runs.signals import guard
from trl_ext.support.errors import UserError
from trl_ext.support.run_log import log

Evaluate = Callable[[Any, Recipe, Path], None]
"""Evaluates the run in a directory as its recipe says, and prints the results on a console: `trl-ext eval DIRECTORY`."""

UNWIND = 15
"""Seconds until a stopped evaluation is ended: requests in flight, which are paid for, have ten."""


def carry_out(recipe: Recipe, directory: Path, console: Any, evaluate: Evaluate) -> None:
    """Evaluate a trained run. Whatever happens here, the run is complete.

    With `push_to_hub`, the model was uploaded when it was trained, and the results follow it.

    Args:
        recipe: With an `evaluation`.
        directory: The run's directory.
        console: Prints statements.
        evaluate: Evaluates the run.

    Raises:
        UserError: The evaluation failed, or its results cannot be uploaded; says how to repeat it.
        Interrupted: It was stopped; says how to continue.
    """
    command = f"trl-ext eval {shlex.quote(str(directory))}"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        console.print(f"The evaluation of the recipe takes one process. Start it with: {command}", markup=False)
        return
    guard.last_words = lambda: (
        f"The run in {directory} is complete. Its evaluation is not: answers and verdicts so far are kept. Continue with: {command}"
    )
    guard.unwind = UNWIND
    try:
        _free_memory()
        evaluate(console, recipe, directory)
    except UserError as error:
        raise UserError(_failed(directory, str(error), command)) from error
    except Exception as error:
        log.add(traceback.format_exc())
        first = next(iter(str(error).splitlines()), "")
        why = f"{type(error).__name__}: {first}".rstrip(": .")
        raise UserError(_failed(directory, f"{why}. The traceback is in run.log.", command)) from error
    if recipe.get("push_to_hub"):
        hub.upload_results(recipe, directory)


def _free_memory() -> None:
    """Give back what the trainer took. Nothing refers to it any more, but its parts refer to each other."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)


def _failed(directory: Path, why: str, command: str) -> str:
    return f"The run in {directory} is complete, but its evaluation failed. {why} Repeat it with: {command}"
