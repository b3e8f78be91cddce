"""Run a recipe: train it, write its run directory, report the result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trl_ext.checkpoints import staging
from trl_ext.recipe import Recipe, load
from trl_ext.recipe.command import run_command
from trl_ext.runs import final_evaluation, hub, libraries, lock, pending
from trl_ext.runs.final_evaluation import Evaluate
from trl_ext.runs.recorded import without_location
from trl_ext.runs.resume import (
    as_recorded,
    how_to_resume,
    latest_checkpoint,
    left_behind,
    run_directory,
    where_it_continues,
)
from trl_ext.runs.signals import guard
from trl_ext.support import atomic
from trl_ext.support.errors import UserError
from trl_ext.support.run_log import LoggedConsole, log

if TYPE_CHECKING:
    from rich.console import Console

    from trl_ext.build.shared_base import SharedBase
    from trl_ext.build.trainer import Built
    from trl_ext.runs.movement import Moved
    from trl_ext.runs.peak_memory import Peak


Tell = Callable[..., None]


def main(
    path: str,
    overrides: dict[str, Any],
    force: bool = False,
    introduce: Tell | None = None,
    conclude: Tell | None = None,
    abandon: Tell | None = None,
    evaluate: Evaluate | None = None,
) -> int:
    """Run a recipe. Returns the exit code 0.

    A run that is trained already and whose evaluation is not complete is evaluated, and not trained again.

    Args:
        path: The recipe.
        overrides: Values that replace those of the recipe.
        force: Run even if the memory plan says that it will not fit.
        introduce: Called with the console and the recipe before training; prints what will be trained.
        conclude: Called with the console, the recipe and a `Trained` after training; prints the result.
        abandon: Called with the recipe and the directory if training ends early, after its curves are drawn.
        evaluate: Called last, if the recipe has an `evaluation`.

    Raises:
        UserError: An error that the user can fix.
    """
    recipe = load(path, overrides, to_train=True)
    if recipe.awaits is not None:
        raise UserError(recipe.awaits, about=path)
    trained = None if evaluate is None else pending.trained_run(recipe)
    directory, checkpoint = (trained, None) if trained is not None else run_directory(recipe)
    with lock.writing(directory), log.open():
        log.add(run_command(path, overrides))
        try:
            if trained is None:
                _run(recipe, directory, checkpoint, force, introduce, conclude, abandon)
            else:
                _continue_with_evaluation(recipe, directory)
            if recipe.evaluation is not None and evaluate is not None:
                final_evaluation.carry_out(recipe, directory, _console(), evaluate)
        except BaseException as error:
            log.add(f"ended early: {error}")
            raise
    return 0


def _run(
    recipe: Recipe,
    directory: Path,
    checkpoint: str | None,
    force: bool,
    introduce: Tell | None,
    conclude: Tell | None,
    abandon: Tell | None,
) -> None:
    libraries.configure(recipe)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        directory, checkpoint = _as_on_the_main_process(recipe, directory, checkpoint)

    console = _console()
    console.print(f"[bold]{recipe.name}[/bold]: {recipe.title} → {directory}")
    for note in recipe.notes:
        console.print(note)
    if checkpoint is not None:
        console.print(where_it_continues(recipe, directory, Path(checkpoint)), markup=False)
    elif (earlier := left_behind(recipe, directory)) is not None:
        console.print(earlier, markup=False)
    if introduce is not None:
        introduce(console, recipe)
    from trl_ext.model_files.available import require_model
    from trl_ext.runs import memory_check

    if (copy := require_model(recipe.get("model_name_or_path"), recipe.get("model_revision"))) is not None:
        console.print(copy, markup=False)
    if not force:
        for warning in memory_check.check(recipe):
            console.print(warning)
    trained = train(recipe, directory, checkpoint, console, abandon=abandon, measures_movement=conclude is not None)
    trainer = trained.built.trainer
    if trainer.is_world_process_zero():
        from trl_ext.runs.report import draw_curves

        draw_curves(recipe, directory)
        if conclude is not None:
            conclude(console, recipe, trained)
    if trainer.args.push_to_hub:
        with hub.uploading(recipe, directory):
            trainer.push_to_hub(dataset_name=recipe.get("dataset_name"))
    trainer.accelerator.end_training()


def _console() -> LoggedConsole:
    """The console of the main process; that of the others prints nothing."""
    from trl_ext.support import terminal

    return LoggedConsole(terminal.console(quiet=os.environ.get("RANK", "0") != "0"))


def _continue_with_evaluation(recipe: Recipe, directory: Path) -> None:
    """Say that a run is trained already, and record what is evaluated."""
    libraries.configure(recipe)
    log.begin(directory, f"{recipe.name}: evaluation")
    pending.record_evaluation(recipe, directory)
    _console().print(
        f"{directory} is trained, and its evaluation is not complete: it continues now. To train again, choose another "
        "`--output_dir`.",
        markup=False,
    )


class Trained(NamedTuple):
    """A trained run in memory.

    Attributes:
        built: Its trainer, after its last step.
        seconds: Training time, with the reference pass and the time before a resume.
        counts: Completions whose reference log-probabilities came from the cache and were computed, over all processes;
            `None` if no reference is used.
        peak: Peak memory of this process, loading included; `None` if the system does not report it.
        moved: How far the policy is from where it started; `None` if it was not measured.
    """

    built: Built
    seconds: float
    counts: tuple[int, int] | None
    peak: Peak | None
    moved: Moved | None = None


def train(
    recipe: Recipe,
    directory: Path,
    checkpoint: str | None,
    console: Console,
    base: SharedBase | None = None,
    abandon: Tell | None = None,
    measures_movement: bool = False,
    watch: Callable[[Built], Any] | None = None,
) -> Trained:
    """Train a recipe and write its run directory: adapter, tokenizer, resolved recipe, metrics, environment, card.

    Args:
        recipe: What to train.
        directory: The run directory.
        checkpoint: The checkpoint to resume from.
        console: Prints statements.
        base: Lends the base model if several runs share one.
        abandon: See `main`.
        measures_movement: Measure how far the policy moves, which needs a few forward passes before and after training.
        watch: Makes a callback of the trainer, which may end training early by an exception.
    """
    from trl_ext.build.trainer import build_trainer
    from trl_ext.runs import environment
    from trl_ext.runs.callbacks import AfterFirstStep, StopWhenAsked
    from trl_ext.runs.movement import Movement
    from trl_ext.runs.peak_memory import PeakMemory

    memory, console = PeakMemory(), LoggedConsole(console)
    if checkpoint is not None:
        guard.last_words = lambda: how_to_resume(directory, recipe)
        recipe = as_recorded(recipe, directory)
    built = build_trainer(recipe, directory, base, checkpoint)
    for statement in built.statements:
        console.print(statement)
    for line in built.details:
        console.detail(line)
    trainer = built.trainer
    resolved = without_location(recipe)
    resolved = replace(resolved, values={**resolved.values, **built.settled})
    trainer.recipe_digest = resolved.digest()
    trainer.add_callback(StopWhenAsked(guard, trainer.accelerator))

    def keep_row_tokens() -> None:
        """Record the row length in the resolved recipe, because it fixes the order of additions.

        A rerun on a CPU is then bit-identical, if reference rows are as long again (`RowMemory.reference_tokens`).
        """
        exact = replace(resolved, values={**resolved.values, "row_tokens": trainer.memory.row_tokens})
        exact.dump(directory / "recipe.resolved.yaml")

    if recipe.method.cuts_rows or recipe.method.samples_completions:
        trainer.add_callback(AfterFirstStep(keep_row_tokens))
    movement = Movement(trainer, recipe.method)
    if measures_movement:
        trainer.add_callback(movement)
    if watch is not None:
        trainer.add_callback(watch(built))
    if checkpoint is not None:
        trainer.check_resume(checkpoint)  # before the directory's recipe is replaced
    try:
        guard.last_words = lambda: how_to_resume(directory, recipe)
        with guard.deferred():
            if trainer.is_world_process_zero():
                directory.mkdir(parents=True, exist_ok=True)
                log.begin(directory, f"{recipe.name}: {recipe.title}" + (f", from {checkpoint}" if checkpoint else ""))
                resolved.dump(directory / "recipe.resolved.yaml")
                atomic.write_json(directory / "environment.json", environment.describe())
            trainer.train(resume_from_checkpoint=checkpoint)
            _require_a_step(trainer, directory)
            seconds, peak = trainer.trained_seconds, memory.read()
            counts = trainer.reference_counts() if recipe.method.cuts_rows else None  # from every process
            with hub.uploading(recipe, directory):
                trainer.save_model(str(directory))
            trainer.create_model_card(model_name=directory.name, dataset_name=recipe.get("dataset_name"))
            guard.last_words = lambda: f"The run in {directory} is complete; only its report is missing."
            moved = movement.measure()
    except BaseException as error:
        _close(recipe, built, abandon)
        if isinstance(error, UserError | KeyboardInterrupt) or not staging.is_disk_full(error):
            raise
        raise UserError(
            f"The disk of {directory} is full. Free some space. {how_to_resume(directory, recipe)}"
        ) from error
    return Trained(built, seconds, counts, peak, moved)


def _require_a_step(trainer: Any, directory: Path) -> None:
    """UserError if training ended without a step, and the directory can be used again.

    Data in memory is counted before weights are loaded; of a stream only the first rows are.
    """
    if trainer.state.global_step:
        return
    if trainer.is_world_process_zero():
        (directory / "recipe.resolved.yaml").unlink(missing_ok=True)
    raise UserError(
        "The run took no step: no row of its training data was left for a batch. `trl-ext data` shows why rows are dropped."
    )


def _close(recipe: Recipe, built: Built, abandon: Tell | None) -> None:
    """End a run early: draw its curves, and leave a directory that can be resumed, or used again if it cannot."""
    directory, trainer = built.output_dir, built.trainer
    if not trainer.is_in_train:
        return  # the result is complete
    trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)  # progress bar, trackers
    if not trainer.is_world_process_zero():
        return
    if latest_checkpoint(directory) is None:
        (directory / "recipe.resolved.yaml").unlink(missing_ok=True)
    if (directory / "metrics.jsonl").exists():
        from trl_ext.runs.report import draw_curves

        with contextlib.suppress(OSError):  # a full disk must not hide why the run ended
            draw_curves(recipe, directory)
            if abandon is not None:
                abandon(recipe, directory)


def _as_on_the_main_process(recipe: Recipe, *values: Any) -> list[Any]:
    """The main process's values on every process, so that all of them choose the same numbered directory."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=bool(recipe.get("use_cpu")))
    return broadcast_object_list(list(values))
