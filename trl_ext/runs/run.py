"""A recipe from file to run directory: train it, leave what is worth having, say what changed."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trl_ext.checkpoints import staging
from trl_ext.checks import reward_names
from trl_ext.recipe import Recipe, load
from trl_ext.runs import lock
from trl_ext.runs.resume import how_to_resume, latest_checkpoint, run_directory
from trl_ext.runs.signals import guard
from trl_ext.support import atomic, quiet
from trl_ext.support.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from trl_ext.build.shared_base import SharedBase
    from trl_ext.build.trainer import Built
    from trl_ext.runs.peak_memory import Peak


PLACE = ("resume_from_checkpoint", "resume_changed", "output_dir")
"""Settings that say where a run is and what it goes on from."""


def main(path: str, overrides: dict[str, Any], force: bool = False) -> int:
    """Run a recipe. Returns the exit code 0; raises UserError for what the user can put right.

    Args:
        path: The recipe.
        overrides: Keys that win over it.
        force: Try even what cannot fit this machine's memory.
    """
    recipe = load(path, overrides)
    if recipe.awaits is not None:
        raise UserError(recipe.awaits, about=path)
    directory, checkpoint = run_directory(recipe)
    with lock.writing(directory):
        _run(recipe, directory, checkpoint, force)
    return 0


def _run(recipe: Recipe, directory: Path, checkpoint: str | None, force: bool) -> None:
    is_main = int(os.environ.get("RANK", "0")) == 0
    quieten(recipe)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        directory, checkpoint = _as_on_the_main_process(recipe, directory, checkpoint)

    from trl_ext.support import terminal

    console = terminal.console(quiet=not is_main)
    for note in recipe.notes:
        console.print(note)
    console.print(f"[bold]{recipe.name}[/bold] → {directory}")
    from trl_ext.model_files.available import require_model
    from trl_ext.runs import memory_check

    if (copy := require_model(recipe.get("model_name_or_path"), recipe.get("model_revision"))) is not None:
        console.print(copy, markup=False)
    if not force:
        for warning in memory_check.check(recipe):
            console.print(warning)
    trained = train(recipe, directory, checkpoint, console)
    trainer = trained.built.trainer
    if trainer.is_world_process_zero():
        _report(console, recipe, trained)
    if trainer.args.push_to_hub:
        trainer.push_to_hub(dataset_name=recipe.get("dataset_name"))
    trainer.accelerator.end_training()


class Trained(NamedTuple):
    """What a run left in memory.

    Attributes:
        built: Its trainer, after its last step.
        seconds: Spent in training, the reference pass included, and what was trained before a resume.
        counts: Completions whose reference came from the cache and was computed, over all processes; `None` where
            no reference is read or cached.
        peak: The most memory it took, loading included, of this process; `None` where the system does not tell it.
    """

    built: Built
    seconds: float
    counts: tuple[int, int] | None
    peak: Peak | None


def train(
    recipe: Recipe, directory: Path, checkpoint: str | None, console: Console, base: SharedBase | None = None
) -> Trained:
    """Train a recipe and leave its run directory: adapter, tokenizer, resolved recipe, metrics, environment, card.

    Args:
        recipe: What to train.
        directory: Where it goes.
        checkpoint: What it goes on from.
        console: Where statements are printed.
        base: Lends the base model, where several runs share one.
    """
    from trl_ext.build.trainer import build_trainer
    from trl_ext.runs import environment
    from trl_ext.runs.callbacks import AfterFirstStep, StopWhenAsked
    from trl_ext.runs.peak_memory import PeakMemory

    memory = PeakMemory()
    if checkpoint is not None:
        guard.last_words = lambda: how_to_resume(directory, recipe)
    built = build_trainer(recipe, directory, base, checkpoint)
    for statement in built.statements:
        console.print(statement)
    trainer = built.trainer
    resolved = without_place(recipe)
    trainer.recipe_digest = resolved.digest()
    trainer.add_callback(StopWhenAsked(guard, trainer.accelerator))

    def keep_row_tokens() -> None:
        """Row lengths change no result but the order of its additions; with them a rerun is exact to the bit on a CPU."""
        settled = replace(resolved, values={**resolved.values, "row_tokens": trainer.row_tokens})
        settled.dump(directory / "recipe.resolved.yaml")

    if recipe.method.cuts_rows:
        trainer.add_callback(AfterFirstStep(keep_row_tokens))
    if checkpoint is not None:
        trainer.check_resume(checkpoint)  # before the directory's recipe is replaced
    try:
        guard.last_words = lambda: how_to_resume(directory, recipe)
        with guard.deferred():
            if trainer.is_world_process_zero():
                directory.mkdir(parents=True, exist_ok=True)
                resolved.dump(directory / "recipe.resolved.yaml")
                atomic.write_json(directory / "environment.json", environment.describe())
            trainer.train(resume_from_checkpoint=checkpoint)
            seconds, peak = trainer.trained_seconds, memory.read()
            counts = trainer.reference_counts() if recipe.method.cuts_rows else None  # from every process
            trainer.save_model(str(directory))
            trainer.create_model_card(model_name=directory.name, dataset_name=recipe.get("dataset_name"))
            guard.last_words = lambda: f"{directory} is complete; what follows training is left out."
    except BaseException as error:
        _close(recipe, built)
        if isinstance(error, UserError | KeyboardInterrupt) or not staging.is_disk_full(error):
            raise
        raise UserError(
            f"The disk of {directory} is full: free some space. {how_to_resume(directory, recipe)}"
        ) from error
    return Trained(built, seconds, counts, peak)


def _close(recipe: Recipe, built: Built) -> None:
    """Of a run that ends early, leave the curves, and a directory that can be resumed or else used again."""
    directory, trainer = built.output_dir, built.trainer
    if not trainer.is_in_train:
        return  # it was complete
    trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)  # progress bar, trackers
    if not trainer.is_world_process_zero():
        return
    if latest_checkpoint(directory) is None:
        (directory / "recipe.resolved.yaml").unlink(missing_ok=True)
    if (directory / "metrics.jsonl").exists():
        with contextlib.suppress(OSError):  # no room for the picture must not hide why the run ended
            draw_curves(recipe, directory)


def draw_curves(recipe: Recipe, directory: Path) -> Path:
    """Draw what a run logged so far. Returns the picture."""
    from trl_ext.report import curves

    title = f"{recipe.name}: {recipe.title} on {recipe.get('dataset_name')}"
    return curves.draw(directory / "metrics.jsonl", directory / "curves.png", title)


def _as_on_the_main_process(recipe: Recipe, *values: Any) -> list[Any]:
    """The main process's values on every process: a numbered directory must not depend on who looks first."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=bool(recipe.get("use_cpu")))
    return broadcast_object_list(list(values))


def without_place(recipe: Recipe) -> Recipe:
    """The recipe without settings that say where a run is, not what it does, and with local paths made absolute."""
    values = {key: value for key, value in recipe.values.items() if key not in PLACE}
    for key in ("model_name_or_path", "dataset_name", "reward_adapter"):
        if isinstance(values.get(key), str) and Path(values[key]).exists():
            values[key] = str(Path(values[key]).resolve())
    if values.get("reward_funcs"):
        values["reward_funcs"] = [reward_names.absolute(name) for name in values["reward_funcs"]]
    return replace(recipe, values=values)


def quieten(recipe: Recipe) -> None:
    """Environment of the libraries, before they are imported: what the recipe sets, and less noise."""
    for name, value in recipe.sections()["env"].items():
        os.environ[name] = value
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # what it cannot read is said by the exception too
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait starve each other as soon as a core has anything else to do.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet.hide_progress_off_terminals()


def _report(console: Console, recipe: Recipe, trained: Trained) -> None:
    from trl.trainer.utils import get_config_model_id

    from trl_ext import demo
    from trl_ext.report import summary
    from trl_ext.runs import memory_check
    from trl_ext.trainers.monitoring.callback import warnings_in

    built, seconds, counts, _ = trained
    directory, trainer = built.output_dir, built.trainer
    picture = draw_curves(recipe, directory)
    console.print(f"\ntrained {trainer.state.global_step} steps in {seconds:.0f} s")
    if counts is not None:
        console.print(f"reference: {counts[0]:,} completions from the cache, {counts[1]:,} computed and kept")
    tables = summary.first_and_last(directory / "metrics.jsonl")
    is_demo = (
        get_config_model_id(trainer.model.config) == str(demo.MODEL) and recipe.get("dataset_name") == demo.EMBEDDED
    )
    if is_demo and not recipe.method.trains_scores and hasattr(trainer.model, "disable_adapter"):
        console.print("sampling reviews with the adapter on and off …")
        tables = [_measure_the_demo(directory, trainer), *tables[1:]]
    for table in tables:
        console.print(table)
    what = "adapter" if hasattr(trainer.model, "disable_adapter") else "model"
    console.print(f"{what:8} {directory}\ncurves   {picture}")
    for _, warning in warnings_in(directory / "metrics.jsonl"):
        console.print(f"warning, {warning}", markup=False)
    if (memory := memory_check.compare(recipe, trainer, directory)) is not None:
        console.print(memory)


def _measure_the_demo(directory: Path, trainer: Any) -> Any:
    from trl_ext import demo
    from trl_ext.demo import evaluate, preferences
    from trl_ext.report import summary

    lines = (demo.DATA / "test.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = preferences.held_out(trainer.model, trainer.processing_class, [json.loads(line) for line in lines])
    samples = evaluate.evaluate(trainer.model, trainer.processing_class)
    atomic.write_json(directory / "evaluation.json", {"samples": samples, "pairs": pairs})
    return summary.before_and_after(samples, pairs)
