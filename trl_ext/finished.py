"""A finished run, loaded again: its adapter on its base, its tokenizer and the prompts of its data."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext import run
from trl_ext.errors import UserError
from trl_ext.recipe import Recipe, load

RECIPE = "recipe.resolved.yaml"


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


def run_of(path: Path) -> Path | None:
    """The latest finished run of a recipe, in its `output_dir` or under `runs/`; `None` if there is none yet."""
    named = load(path).get("output_dir")
    candidates = [Path(named)] if named else Path("runs").glob("*")
    finished = [run for run in candidates if _title(run).startswith(f"{path.name} ")]
    return max(finished, key=lambda run: (run / "adapter_config.json").stat().st_mtime, default=None)


def recipe_of(directory: Path) -> Recipe:
    """The recipe of a run directory or of one of its checkpoints, its model being the run's adapter.

    Raises:
        UserError: The directory holds no adapter of a policy, or not what `trl-ext run` leaves.
    """
    if not (directory / "adapter_config.json").exists():
        raise UserError(
            f"{directory} holds no adapter (adapter_config.json): name the directory of a finished run or of one of its "
            "checkpoints."
        )
    path = _home(directory) / RECIPE
    if load(path).trainer == "reward":
        raise UserError(f"{directory} holds a reward model, which writes no completions: name the run of a policy.")
    return load(path, {"model_name_or_path": str(directory)})


def open_run(directory: Path, n_prompts: int) -> Finished:
    """Load a run as it was trained: same quantisation, dtype and data.

    Raises:
        UserError: See `recipe_of`; or base model, tokenizer or data cannot be loaded, or no prompt is in the data.
    """
    recipe = recipe_of(directory)
    run.quieten(recipe)
    from trl_ext import build, examples

    chosen = build.precision(recipe)
    args = build.config(recipe, directory, chosen)
    train, evaluation = examples.load(recipe, args, [])
    tokenizer = build.tokenizer(recipe)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model, _ = build.policy(recipe, args, chosen, [])
    data = train if evaluation is None else evaluation
    prompts = {str(row["prompt"]): row["prompt"] for row in itertools.islice(data, 4 * n_prompts) if row["prompt"]}
    if not prompts:
        raise UserError(f"The data of {directory} has no prompts to sample completions for: all of them are empty.")
    began = load(_home(directory) / RECIPE).get("model_name_or_path")
    continued = began if Path(began, "adapter_config.json").exists() else None
    return Finished(model, tokenizer, list(prompts.values())[:n_prompts], continued)


def _home(directory: Path) -> Path:
    """The run's directory, given it or one of its checkpoints."""
    for home in (directory, directory.parent):
        if (home / RECIPE).exists():
            return home
    raise UserError(f"{directory} holds no {RECIPE}: it was not left by `trl-ext run`.")


def _title(directory: Path) -> str:
    """The first line of a finished run's resolved recipe, which names the recipe it comes from; else nothing."""
    if not (directory / RECIPE).exists() or not (directory / "adapter_config.json").exists():
        return ""
    with (directory / RECIPE).open(encoding="utf-8") as file:
        return file.readline().removeprefix("# ")
