"""Bring the page of a run and the results in its model card up to date."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trl_ext.evaluation.run_page import card, page, records
from trl_ext.recipe import Recipe
from trl_ext.runs import finished


def update(directory: Path, recipe: Recipe | None = None) -> Path | None:
    """Write the page of a run from the files in its directory, and the results into its model card.

    Args:
        directory: Of the run or of one of its checkpoints. The page of a checkpoint is that of its run.
        recipe: The run's recipe; needed if the directory does not hold the trained weights.

    Returns:
        The page; `None` for a directory that was not written by `trl-ext run`, such as a merged model.

    Raises:
        OSError: A file cannot be written.
    """
    if not finished.is_of_run(directory):
        return None
    home, recipe = finished.home(directory), recipe or finished.recipe_at(directory, needs_data=False)
    recipe = replace(recipe, values=finished.written(home))  # the names of model and data, also of those that are gone
    measured = records.read(home)
    written = page.write(home, recipe, measured)
    card.write(home, measured)
    return written


def refresh(directory: Path, say: Callable[[str], None], recipe: Recipe | None = None) -> Path | None:
    """As `update`, but a file that cannot be written is reported to `say`: the results themselves are complete without it."""
    try:
        return update(directory, recipe)
    except OSError as error:
        say(f"The page of the run was not written: {error}")
        return None
