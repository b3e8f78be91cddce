"""A finished run, found and loaded again: its recipe, its model as it was trained, and the prompts of its data."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext import opened, run
from trl_ext.errors import UserError
from trl_ext.opened import ADAPTER, Opened
from trl_ext.recipe import Recipe, load, reader
from trl_ext.recipe.checks import EMBEDDED

RECIPE = "recipe.resolved.yaml"

ELSEWHERE = {"dataset_name": EMBEDDED, "reward_adapter": None, "reward_weights": None, "reward_funcs": ["sentiment"]}
"""Keys that name what a model does not need any more once it is trained, and something in its place that is there."""


class Finished(NamedTuple):
    """What a run left, ready to sample from.

    Attributes:
        model: A `PeftModel` with the run's adapter, trainable; without it, it is the base the run was trained on.
        tokenizer: With a padding token.
        prompts: The held-out ones if the run has any, else those of its training data; texts or conversations.
        continued: The adapter the run began with, which was its reference; `None` if it began with the bare base.
    """

    model: Any
    tokenizer: Any
    prompts: list
    continued: str | None


def directory_of(given: Path) -> Path:
    """The directory itself, or that of the latest finished run of a recipe.

    Raises:
        UserError: Neither there, nor a recipe that was run.
    """
    if given.is_dir():
        return given
    if not given.exists():
        raise UserError(f"{given} does not exist: name the directory of a run, or a recipe (a YAML file).")
    directory = run_of(given)
    if directory is None:
        raise UserError(f"No finished run of {given} yet: `trl-ext run {given}` makes one.")
    return directory


def run_of(path: Path) -> Path | None:
    """The latest finished run of a recipe, in its `output_dir` or under `runs/`; `None` if there is none yet."""
    named = load(path).get("output_dir")
    candidates = [Path(named)] if named else Path("runs").glob("*")
    finished = [run for run in candidates if _title(run).startswith(f"{path.name} ")]
    return max(finished, key=lambda run: (run / ADAPTER).stat().st_mtime, default=None)


def recipe_of(directory: Path) -> Recipe:
    """The recipe of a run directory or of one of its checkpoints, its model being the run's adapter.

    Raises:
        UserError: The directory holds no adapter of a policy, or not what `trl-ext run` leaves.
    """
    if not (directory / ADAPTER).exists():
        raise UserError(
            f"{directory} holds no adapter ({ADAPTER}): name the directory of a finished run or of one of its "
            "checkpoints."
        )
    check(directory)
    return recipe_at(directory)


def recipe_at(directory: Path, *, needs_data: bool = True) -> Recipe:
    """The recipe of a run directory or of one of its checkpoints, its model being what is there.

    Args:
        directory: Of the run or the checkpoint.
        needs_data: Whether data and sources of reward are used; if not, they may have been moved meanwhile.

    Raises:
        UserError: There is no recipe, or what it names is not there.
    """
    path, here = _home(directory) / RECIPE, {"model_name_or_path": str(directory)}
    try:
        return load(path, here)
    except UserError:
        written = reader.read(path).values
        elsewhere = {key: value for key, value in ELSEWHERE.items() if key in written}
        if needs_data or not elsewhere:
            raise
        if "reward_adapter" in elsewhere:  # one source there has to be
            elsewhere["reward_funcs"] = ELSEWHERE["reward_funcs"]
        return load(path, here | elsewhere)


def began_as(directory: Path) -> Recipe:
    """The recipe as the run had it. UserError if the directory, or the one it stands in, holds none."""
    return load(_home(directory) / RECIPE)


def check(directory: Path) -> None:
    """Refuse what `open_model` cannot open, from its files alone.

    Raises:
        UserError: It holds neither an adapter of a run nor a model, or one that scores instead of writing.
    """
    if (directory / ADAPTER).exists():
        scores = _written(directory).get("trainer") == "reward"
    elif (directory / "config.json").exists():
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        scores = any("SequenceClassification" in name for name in config.get("architectures") or [])
    else:
        raise UserError(
            f"{directory} holds neither an adapter ({ADAPTER}) nor a model (config.json): name the directory of a "
            "finished run, of one of its checkpoints, or of a merged model."
        )
    if scores:
        raise UserError(f"{directory} holds a reward model, which writes no completions: name the run of a policy.")


def open_model(directory: Path, *, needs_reference: bool = False) -> Opened:
    """Load a run, one of its checkpoints or a merged model: a run as it was trained, in its quantisation and dtype.

    Args:
        directory: Of the run, the checkpoint or the model.
        needs_reference: Whether `add_reference` will be called: what it refuses is then refused at once.

    Raises:
        UserError: See `check` and `opened.check_beginning`; or base model or tokenizer cannot be loaded.
    """
    check(directory)
    is_adapter = (directory / ADAPTER).exists()
    is_run = is_adapter or _trained_all_weights(directory)
    began_with = _written(directory)["model_name_or_path"] if is_run else None
    if needs_reference:
        opened.check_beginning(directory, began_with)
    recipe = recipe_at(directory, needs_data=False) if is_run else _naming_only(directory)
    run.quieten(recipe)
    model = opened.adapter(recipe) if is_adapter else opened.whole(recipe)
    return Opened(directory, recipe, began_with, model, opened.processor(recipe))


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
    return Finished(opened.adapter(recipe), opened.processor(recipe), prompts, None)


def _prompts(recipe: Recipe, directory: Path, n_prompts: int) -> list:
    run.quieten(recipe)
    from trl_ext import build, examples

    args = build.config(recipe, directory, build.precision(recipe))
    train, evaluation = examples.load(recipe, args, [])
    data = train if evaluation is None else evaluation
    prompts = {str(row["prompt"]): row["prompt"] for row in itertools.islice(data, 4 * n_prompts) if row["prompt"]}
    if not prompts:
        raise UserError(f"The data of {directory} has no prompts to sample completions for: all of them are empty.")
    return list(prompts.values())[:n_prompts]


def _trained_all_weights(directory: Path) -> bool:
    """Whether a model without adapter is what a run or its checkpoint left, and not the merged model of one."""
    if not any((home / RECIPE).exists() for home in (directory, directory.parent)):
        return False
    written = _written(directory)
    return not written.get("use_peft") and not Path(written["model_name_or_path"], ADAPTER).exists()


def _naming_only(directory: Path) -> Recipe:
    return Recipe(directory, {"trainer": "sft", "model_name_or_path": str(directory)}, set(), None, {})


def _written(directory: Path) -> dict[str, Any]:
    """The run's recipe as it is written, whether or not what it names is there."""
    return reader.read(_home(directory) / RECIPE).values


def _home(directory: Path) -> Path:
    """The run's directory, given it or one of its checkpoints."""
    for home in (directory, directory.parent):
        if (home / RECIPE).exists():
            return home
    raise UserError(f"{directory} holds no {RECIPE}: it was not left by `trl-ext run`.")


def _title(directory: Path) -> str:
    """The first line of a finished run's resolved recipe, which names the recipe it comes from; else nothing."""
    if not (directory / RECIPE).exists() or not (directory / ADAPTER).exists():
        return ""
    with (directory / RECIPE).open(encoding="utf-8") as file:
        return file.readline().removeprefix("# ")
