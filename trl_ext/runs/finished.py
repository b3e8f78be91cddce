"""Find the directory of a finished run and the recipe it was trained with. Nothing heavy is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trl_ext import methods
from trl_ext.checkpoints import found
from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter, model
from trl_ext.recipe import Recipe, load, names, reader
from trl_ext.report import metrics_file
from trl_ext.support.errors import UserError
from trl_ext.support.messages import joined

RECIPE = "recipe.resolved.yaml"

MODEL = "config.json"
"""Configuration of a complete model."""

ELSEWHERE = {"dataset_name": EMBEDDED, "reward_adapter": None, "reward_weights": None, "reward_funcs": ["sentiment"]}
"""Keys that name data and rewards a trained model no longer needs, and a value for each that always exists."""


def directory_of(given: Path) -> Path:
    """The directory itself, or that of the latest finished run of a recipe.

    Raises:
        UserError: It does not exist, or it is a recipe without a finished run.
    """
    given = given.expanduser()
    if given.is_dir():
        return given
    if not names.find(given).exists():
        raise UserError(absent(given))
    directory = run_of(given)
    if directory is None:
        checkpoints = filter(None, map(found.latest, _runs_of(given)))
        newest = max(checkpoints, key=lambda checkpoint: checkpoint.stat().st_mtime, default=None)
        hint = f" The newest complete checkpoint of an unfinished run is {newest}." if newest else ""
        raise UserError(f"There is no finished run of {given}. Train one with `trl-ext run {given}`.{hint}")
    return directory


def absent(given: Path) -> str:
    """The sentences about a word that names neither a run nor a recipe."""
    meant = names.near(given)
    hint = f"Did you mean {joined(meant, 'or')}?" if meant else "`trl-ext recipes` lists those that come with trl-ext."
    return f"{given} does not exist. Give the directory of a run, or a recipe (a YAML file or a name). {hint}"


def run_of(path: Path) -> Path | None:
    """The latest finished run of a recipe (a file or a name), in its `output_dir` or under `runs/`; `None` if no run has finished."""
    return max(filter(result, _runs_of(path)), key=lambda run: result(run).stat().st_mtime, default=None)


def result(directory: Path) -> Path | None:
    """The configuration of what a run trained, its adapter or all weights of a model; `None` if it has not finished."""
    return next((file for name in (adapter.CONFIG, MODEL) if (file := directory / name).exists()), None)


def _runs_of(path: Path) -> list[Path]:
    """The runs of a recipe, finished or not, in its `output_dir` or under `runs/`."""
    path = names.find(path)
    try:
        return _runs_in(load(path).get("output_dir"), path)
    except UserError:  # flags of the run may have given what the file lacks
        named = reader.read(path).values.get("output_dir")
        runs = _runs_in(named if isinstance(named, str) else None, path)
        if not runs:
            raise
        return runs


def _runs_in(output_dir: str | None, path: Path) -> list[Path]:
    candidates = [Path(output_dir)] if output_dir else Path("runs").glob("*")
    return [run for run in candidates if _title(run).startswith(f"{path.name} ")]


def unfinished(directory: Path) -> str | None:
    """A sentence if the directory is that of an unfinished run with a complete checkpoint; else `None`."""
    checkpoint = found.latest(directory) if (directory / RECIPE).exists() else None
    if checkpoint is None:
        return None
    return f"The run in {directory} has not finished. Give its newest complete checkpoint, {checkpoint}."


def recipe_of(directory: Path) -> Recipe:
    """The recipe of a run directory or of one of its checkpoints, with the run's adapter as its model.

    Raises:
        UserError: The directory holds no adapter of a policy, or was not written by `trl-ext run`.
    """
    if not adapter.is_in(directory):
        raise UserError(
            unfinished(directory)
            or f"{directory} holds no adapter ({adapter.CONFIG}). Give the directory of a finished run or of one of its "
            "checkpoints."
        )
    home(directory)
    check(directory)
    return recipe_at(directory)


def recipe_at(directory: Path, *, needs_data: bool = True) -> Recipe:
    """The recipe of a run directory or of one of its checkpoints, with the trained model as its model.

    Args:
        directory: Of the run or the checkpoint.
        needs_data: Whether data and rewards are used; if not, their files need not exist any more.

    Raises:
        UserError: There is no recipe, or a file it names does not exist.
    """
    # What is evaluated is read by `trl-ext eval` alone, and its files need not exist for anything else.
    path, here = home(directory) / RECIPE, {"model_name_or_path": str(directory), "evaluation": False}
    try:
        return load(path, here)
    except UserError:
        named = reader.read(path).values
        elsewhere = {key: value for key, value in ELSEWHERE.items() if key in named}
        if needs_data or not elsewhere:
            raise
        if "reward_adapter" in elsewhere:  # a recipe needs one source of reward
            elsewhere["reward_funcs"] = ELSEWHERE["reward_funcs"]
        return load(path, here | elsewhere)


def began_as(directory: Path) -> Recipe:
    """The recipe as the run was started with. UserError if neither the directory nor its parent holds one."""
    return load(home(directory) / RECIPE, {"evaluation": False})


def check(directory: Path) -> None:
    """Refuse a directory that `open_model` cannot open. Only its files are read.

    Raises:
        UserError: It holds neither an adapter nor a model, or a damaged one, or a reward model.
    """
    if result(directory) is None:
        raise UserError(
            unfinished(directory)
            or f"{directory} holds neither an adapter ({adapter.CONFIG}) nor a model ({MODEL}). Give the directory of a "
            "finished run, of one of its checkpoints, or of a merged model."
        )
    is_of_adapter_run = adapter.is_in(directory) and is_of_run(directory)  # whose recipe names what is missing
    if not is_of_adapter_run and (problem := model.problem(str(directory))) is not None:
        raise UserError(problem)
    if _trains_scores(directory):
        raise UserError(f"{directory} holds a reward model, which cannot generate text. Give the run of a policy.")


def _trains_scores(directory: Path) -> bool:
    if adapter.is_in(directory) and is_of_run(directory):
        return methods.of(written(directory).get("trainer")).trains_scores
    if adapter.is_in(directory):
        return adapter.config(directory).get("task_type") == "SEQ_CLS"
    config = json.loads((directory / MODEL).read_text(encoding="utf-8"))
    return any("SequenceClassification" in name for name in config.get("architectures") or [])


def trained_all_weights(directory: Path) -> bool:
    """Whether a directory holds a run (or its checkpoint) that trained all weights, as opposed to a merged model."""
    if not is_of_run(directory):
        return False
    found = written(directory)
    return not found.get("use_peft") and not adapter.is_in(Path(found["model_name_or_path"]))


def written(directory: Path) -> dict[str, Any]:
    """The values of the run's recipe as they are written, without checking that the files they name exist."""
    return reader.read(home(directory) / RECIPE).values


def is_of_run(directory: Path) -> bool:
    """Whether a directory is that of a run, or of one of its checkpoints."""
    return any((place / RECIPE).exists() for place in (directory, directory.parent))


def home(directory: Path) -> Path:
    """The run's directory, given that directory or one of its checkpoints."""
    for place in (directory, directory.parent):
        if (place / RECIPE).exists():
            return place
    raise UserError(
        f"{directory} holds no {RECIPE}, so it was not written by `trl-ext run`. Give the directory of a run."
    )


def last_step(directory: Path) -> int | None:
    """The optimizer step of the weights in a directory: the last that a run logged, or that of a checkpoint's name."""
    _, _, step = directory.name.rpartition("checkpoint-")
    if step.isdecimal() and not (directory / RECIPE).exists():
        return int(step)
    metrics = directory / "metrics.jsonl"
    records = metrics_file.read(metrics) if metrics.exists() else []
    return max((record["step"] for record in records if isinstance(record.get("step"), int)), default=None)


def _title(directory: Path) -> str:
    """The first line of a run's resolved recipe, which names the recipe it comes from; empty if there is none."""
    if not (directory / RECIPE).exists():
        return ""
    with (directory / RECIPE).open(encoding="utf-8") as file:
        return file.readline().removeprefix("# ")
