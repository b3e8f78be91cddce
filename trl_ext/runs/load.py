"""Load a finished run: its model as it was trained, and the prompts of its data."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.model_files import adapter
from trl_ext.recipe import Recipe
from trl_ext.runs import libraries, loaded
from trl_ext.runs.finished import check, is_of_run, recipe_at, recipe_of, trained_all_weights, written
from trl_ext.runs.loaded import Opened
from trl_ext.support.errors import UserError


class Finished(NamedTuple):
    """The result of a run, ready to sample from.

    Attributes:
        model: A `PeftModel` with the run's adapter, trainable; with the adapter off, it is the base model of the run.
        tokenizer: With a padding token.
        prompts: The held-out ones if the run has any, else those of its training data; texts or conversations.
        continued: The adapter the run started from, which was its reference; `None` if it started from the base model.
    """

    model: Any
    tokenizer: Any
    prompts: list
    continued: str | None


def open_model(directory: Path, *, needs_reference: bool = False) -> Opened:
    """Load a run, one of its checkpoints, an adapter or a model: a run as it was trained, in its quantisation and dtype.

    Args:
        directory: Of the run, the checkpoint, the adapter or the model.
        needs_reference: Whether `add_reference` will be called; errors it would raise are then raised before loading.

    Raises:
        UserError: See `check` and `loaded.check_beginning`; or base model or tokenizer cannot be loaded.
    """
    check(directory)
    is_adapter = adapter.is_in(directory)
    is_run = is_of_run(directory) if is_adapter else trained_all_weights(directory)
    began_with = written(directory)["model_name_or_path"] if is_run else adapter.base_of(directory)
    if needs_reference:
        loaded.check_beginning(directory, began_with)
    recipe = recipe_at(directory, needs_data=False) if is_run else _naming_only(directory)
    libraries.configure(recipe)
    model = loaded.adapter(recipe) if is_adapter else loaded.whole(recipe)
    return Opened(directory, recipe, began_with, model, loaded.processor(recipe))


def open_run(directory: Path, n_prompts: int) -> Finished:
    """Load a run as it was trained: same quantisation, dtype and data.

    Raises:
        UserError: See `recipe_of`; or base model, tokenizer or data cannot be loaded, or no prompt is in the data.
    """
    prompts = _prompts(recipe_of(directory), directory, n_prompts)
    result = open_model(directory)
    return Finished(result.model, result.processor, prompts, result.continued)


def open_start(recipe: Recipe, n_prompts: int) -> Finished:
    """Load the adapter that a recipe continues, on its base, as the recipe would.

    Raises:
        UserError: Base model, tokenizer or data cannot be loaded, or no prompt is in the data.
    """
    prompts = _prompts(recipe, Path(recipe.get("model_name_or_path")), n_prompts)
    return Finished(loaded.adapter(recipe), loaded.processor(recipe), prompts, None)


def _prompts(recipe: Recipe, directory: Path, n_prompts: int) -> list:
    libraries.configure(recipe)
    from trl_ext.build import dataset
    from trl_ext.build.config import training_config

    args = training_config(recipe, directory)
    train, evaluation = dataset.load(recipe, args, [])
    data = train if evaluation is None else evaluation
    prompts = {str(row["prompt"]): row["prompt"] for row in itertools.islice(data, 4 * n_prompts) if row["prompt"]}
    if not prompts:
        raise UserError(f"All prompts in the data of {directory} are empty, so no completions can be sampled.")
    return list(prompts.values())[:n_prompts]


def _naming_only(directory: Path) -> Recipe:
    return Recipe(directory, {"trainer": "sft", "model_name_or_path": str(directory)}, set(), None, {})
