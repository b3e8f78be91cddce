"""The directory of a finished run: where it is, and the recipe it was trained by. Nothing heavy is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trl_ext import methods
from trl_ext.checkpoints import found
from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter
from trl_ext.recipe import Recipe, load, reader
from trl_ext.support.errors import UserError

RECIPE = "recipe.resolved.yaml"

ELSEWHERE = {"dataset_name": EMBEDDED, "reward_adapter": None, "reward_weights": None, "reward_funcs": ["sentiment"]}
"""Keys that name what a model does not need any more once it is trained, and something in its place that is there."""


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
        begun = [found.latest(run) for run in _runs_of(given)]
        kept = max(filter(None, begun), key=lambda checkpoint: checkpoint.stat().st_mtime, default=None)
        hint = f"; of one that was not, the newest whole checkpoint is {kept}" if kept else ""
        raise UserError(f"No finished run of {given} yet: `trl-ext run {given}` makes one{hint}.")
    return directory


def run_of(path: Path) -> Path | None:
    """The latest finished run of a recipe, in its `output_dir` or under `runs/`; `None` if there is none yet."""
    finished = [run for run in _runs_of(path) if adapter.is_in(run)]
    return max(finished, key=lambda run: (run / adapter.CONFIG).stat().st_mtime, default=None)


def _runs_of(path: Path) -> list[Path]:
    """The runs of a recipe, finished or not, in its `output_dir` or under `runs/`."""
    named = load(path).get("output_dir")
    candidates = [Path(named)] if named else Path("runs").glob("*")
    return [run for run in candidates if _title(run).startswith(f"{path.name} ")]


def unfinished(directory: Path) -> str | None:
    """A sentence about the directory of a run that has not ended; `None` of any other, or without a whole checkpoint."""
    checkpoint = found.latest(directory) if (directory / RECIPE).exists() else None
    if checkpoint is None:
        return None
    return f"The run in {directory} has not ended: name its newest whole checkpoint, {checkpoint}."


def recipe_of(directory: Path) -> Recipe:
    """The recipe of a run directory or of one of its checkpoints, its model being the run's adapter.

    Raises:
        UserError: The directory holds no adapter of a policy, or not what `trl-ext run` leaves.
    """
    if not adapter.is_in(directory):
        raise UserError(
            unfinished(directory)
            or f"{directory} holds no adapter ({adapter.CONFIG}): name the directory of a finished run or of one of its "
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
        named = reader.read(path).values
        elsewhere = {key: value for key, value in ELSEWHERE.items() if key in named}
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
    if adapter.is_in(directory):
        scores = methods.of(written(directory).get("trainer")).trains_scores
    elif (directory / "config.json").exists():
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        scores = any("SequenceClassification" in name for name in config.get("architectures") or [])
    else:
        raise UserError(
            unfinished(directory)
            or f"{directory} holds neither an adapter ({adapter.CONFIG}) nor a model (config.json): name the directory of a "
            "finished run, of one of its checkpoints, or of a merged model."
        )
    if scores:
        raise UserError(f"{directory} holds a reward model, which writes no completions: name the run of a policy.")


def trained_all_weights(directory: Path) -> bool:
    """Whether a model without adapter is what a run or its checkpoint left, and not the merged model of one."""
    if not any((home / RECIPE).exists() for home in (directory, directory.parent)):
        return False
    found = written(directory)
    return not found.get("use_peft") and not adapter.is_in(Path(found["model_name_or_path"]))


def written(directory: Path) -> dict[str, Any]:
    """The run's recipe as it is written, whether or not what it names is there."""
    return reader.read(_home(directory) / RECIPE).values


def _home(directory: Path) -> Path:
    """The run's directory, given it or one of its checkpoints."""
    for home in (directory, directory.parent):
        if (home / RECIPE).exists():
            return home
    raise UserError(f"{directory} holds no {RECIPE}: it was not left by `trl-ext run`.")


def _title(directory: Path) -> str:
    """The first line of a run's resolved recipe, which names the recipe it comes from; else nothing."""
    if not (directory / RECIPE).exists():
        return ""
    with (directory / RECIPE).open(encoding="utf-8") as file:
        return file.readline().removeprefix("# ")
