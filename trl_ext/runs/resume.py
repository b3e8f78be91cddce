"""Choose the directory a run writes to and the checkpoint it resumes from."""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

from trl_ext.checkpoints import found, manifest
from trl_ext.recipe import Recipe, reader
from trl_ext.recipe.resolved import RESOLVED
from trl_ext.runs import finished, lock
from trl_ext.support.counts import are
from trl_ext.support.errors import UserError
from trl_ext.support.paths import unwritable


def run_directory(recipe: Recipe) -> tuple[Path, str | None]:
    """Where a run writes, and the checkpoint it resumes from if it does.

    Without `output_dir`, a new directory `runs/<recipe>-<loss or trainer>` that no earlier run used, or the latest such one
    when resuming. A finished or interrupted run is never overwritten.

    Raises:
        UserError: The directory holds a run and `resume_from_checkpoint` is off, or it is on and there is no complete
            checkpoint, or another run is writing there.
    """
    resume = recipe.get("resume_from_checkpoint")
    if isinstance(resume, str) and resume.lower() in ("true", "false"):
        resume = resume.lower() == "true"
    named = recipe.get("output_dir")
    if named:
        directory = Path(named)
    else:
        # A resolved recipe is named after the run it stands in.
        name = recipe.path.resolve().parent.name if recipe.path.name == RESOLVED else run_name(recipe)
        stem = Path("runs", name)
        taken = runs_named(name)
        directory = stem
        if taken:
            number = len(taken) + 1
            directory = taken[-1] if resume is True else stem.with_name(f"{stem.name}-{number}")
    lock.refuse_if_written(directory)
    if isinstance(resume, str):
        checkpoint = Path(resume).expanduser()
        found.require_whole(checkpoint)
        return directory, str(checkpoint)
    if resume:
        return directory, str(found.require_latest(directory))
    if (problem := unwritable(directory)) is not None:
        raise UserError(
            f"The run would be written to {directory}, but {problem} Choose another directory with `--output_dir`."
        )
    if _holds_a_run(directory):
        raise UserError(_occupied(directory, recipe))
    return directory, None


def left_behind(recipe: Recipe, directory: Path) -> str | None:
    """A sentence about an earlier run of this recipe that stopped and can be resumed; `None` if there is none.

    Args:
        recipe: The recipe of a run that starts from the beginning.
        directory: Its directory.
    """
    if recipe.get("output_dir") or recipe.path.name == RESOLVED:
        return None
    for earlier in reversed(runs_named(run_name(recipe))):
        checkpoint = None if is_finished(earlier) else found.latest(earlier)
        if checkpoint is not None and earlier != directory and not _is_written(earlier):
            return (
                f"{earlier} holds an earlier run of this recipe, which stopped after {_progress(checkpoint)}. This run starts "
                f"from the beginning, in {directory}. {how_to_resume(earlier, recipe)}"
            )
    return None


def where_it_continues(recipe: Recipe, directory: Path, checkpoint: Path) -> str:
    """A sentence about the step at which a run resumes."""
    done, total = _steps(checkpoint)
    steps = recipe.get("max_steps") or 0
    total = steps if steps > 0 else total
    start = f"Resuming {checkpoint}: "
    if total and done >= total:
        return f"{start}all {total:,} steps are done. Nothing is left to train, and the result is written again."
    left = (
        f"step {done:,} of {total:,} is done, {total - done:,} {are(total - done)} left"
        if total
        else f"step {done:,} is done"
    )
    again = f" The run in {directory} was finished; its result is replaced." if is_finished(directory) else ""
    return f"{start}{left}.{again}"


def _occupied(directory: Path, recipe: Recipe) -> str:
    """Why a run does not start in the directory of another one, and what to do."""
    if is_finished(directory):
        return f"{directory} already holds a run, which is finished. Choose another `--output_dir`."
    checkpoint = found.latest(directory)
    if checkpoint is None:
        return (
            f"{directory} already holds a run, which stopped before its first checkpoint and cannot be resumed. Remove the "
            "folder, or choose another `--output_dir`."
        )
    return (
        f"{directory} already holds a run, which stopped after {_progress(checkpoint)}. To start again, choose another "
        f"`--output_dir`. {how_to_resume(directory, recipe)}"
    )


def runs_named(name: str) -> list[Path]:
    """The directories of runs with one name in `runs`, oldest first."""
    stem = Path("runs", name)
    return [p for p in (stem, *(stem.with_name(f"{stem.name}-{i}") for i in range(2, 1000))) if _holds_a_run(p)]


def _progress(checkpoint: Path) -> str:
    done, total = _steps(checkpoint)
    return f"step {done:,} of {total:,}" if total else f"step {done:,}"


def _steps(checkpoint: Path) -> tuple[int, int]:
    """The step of a checkpoint, and the steps of its run; 0 if not known."""
    try:
        state = json.loads((checkpoint / manifest.STATE).read_text(encoding="utf-8"))
        return int(state["global_step"]), int(state["max_steps"])
    except (OSError, ValueError, LookupError, TypeError):
        return int(checkpoint.name.rpartition("-")[2]) if checkpoint.name.rpartition("-")[2].isdecimal() else 0, 0


def _is_written(directory: Path) -> bool:
    """Whether a run is writing there now."""
    try:
        lock.refuse_if_written(directory)
    except UserError:
        return True
    return False


def is_finished(directory: Path) -> bool:
    """Whether the result of a run is there: its adapter, or all its weights."""
    return finished.result(directory) is not None


def as_recorded(recipe: Recipe, directory: Path) -> Recipe:
    """The recipe for a run that was begun in a directory: one that precedes `apply_chat_template` keeps its data as it was."""
    if "apply_chat_template" in recipe.values or not (directory / RESOLVED).exists():
        return recipe
    precedes = "apply_chat_template" not in reader.read(directory / RESOLVED).values
    return replace(recipe, precedes_apply_chat_template=precedes)


def run_name(recipe: Recipe) -> str:
    """The name of a recipe's runs: the recipe's, and the loss or trainer."""
    parts = [recipe.title] if recipe.loss is None or isinstance(recipe.loss, str) else list(recipe.loss)
    slug = re.sub(r"[^\w.]+", "-", "-".join(parts))
    return recipe.name if recipe.trainer and recipe.name.endswith(slug) else f"{recipe.name}-{slug}"


def _holds_a_run(directory: Path) -> bool:
    return any((directory / name).exists() for name in (RESOLVED, "adapter_config.json"))


def latest_checkpoint(directory: Path) -> str | None:
    """The complete checkpoint with the highest step, or `None`."""
    checkpoint = found.latest(directory)
    return None if checkpoint is None else str(checkpoint)


def how_to_resume(directory: Path, recipe: Recipe) -> str:
    """Name the last checkpoint of a run that ends early, and the command that resumes it."""
    checkpoint = latest_checkpoint(directory)
    if checkpoint is None:
        return f"{_why_no_checkpoint(recipe)}, so the run cannot be resumed."
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    launcher = "trl-ext" if processes == 1 else f"torchrun --nproc_per_node {processes} -m trl_ext"
    # The resolved recipe holds the flags of this run too.
    resolved, output = (shlex.quote(str(path)) for path in (directory / RESOLVED, directory))
    return (
        f"Last checkpoint: {checkpoint}. Resume with: {launcher} run {resolved} --output_dir {output} "
        "--resume_from_checkpoint true"
    )


def _why_no_checkpoint(recipe: Recipe) -> str:
    when = recipe.effective("save_strategy")
    if when == "no":
        return "The recipe saves no checkpoints (`save_strategy: no`)"
    due = f"save_steps: {recipe.effective('save_steps')}" if when == "steps" else f"save_strategy: {when}"
    return f"No checkpoint has been saved yet (`{due}`)"
