"""A recipe from file to run directory: train it, leave what is worth having, say what changed."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_ext import reward_sources
from trl_ext.errors import UserError
from trl_ext.recipe import Recipe, load

if TYPE_CHECKING:
    from rich.console import Console

    from trl_ext.build import Built


def main(path: str, overrides: dict[str, Any]) -> int:
    """Run a recipe. Returns the exit code 0; raises UserError for what the user can put right."""
    recipe = load(path, overrides)
    is_main = int(os.environ.get("RANK", "0")) == 0
    directory, checkpoint = run_directory(recipe)
    quieten(recipe)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        directory, checkpoint = _as_on_the_main_process(recipe, directory, checkpoint)

    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, quiet=not is_main)
    for note in recipe.notes:
        console.print(note)
    console.print(f"[bold]{recipe.name}[/bold] → {directory}")

    from trl_ext import build, environment
    from trl_ext.trainers.callbacks import AfterFirstStep

    built = build.trainer(recipe, directory)
    for statement in built.statements:
        console.print(statement)
    trainer = built.trainer
    resolved = _without(recipe, "resume_from_checkpoint", "output_dir")
    if trainer.is_world_process_zero():
        directory.mkdir(parents=True, exist_ok=True)
        resolved.dump(directory / "recipe.resolved.yaml")
        _write_json(directory / "environment.json", environment.describe())

    def keep_row_tokens() -> None:
        """Row lengths change no result but the order of its additions; with them a rerun is exact to the bit."""
        settled = replace(resolved, values={**resolved.values, "row_tokens": trainer.row_tokens})
        settled.dump(directory / "recipe.resolved.yaml")

    if recipe.trainer is None:
        trainer.add_callback(AfterFirstStep(keep_row_tokens))
    started = time.time()
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        console.print(f"\nInterrupted after step {trainer.state.global_step}. {_how_to_resume(directory)}")
        raise
    seconds = time.time() - started
    counts = trainer.reference_counts() if recipe.trainer is None else None  # from every process
    trainer.save_model(str(directory))
    trainer.create_model_card(model_name=directory.name, dataset_name=recipe.get("dataset_name"))
    if trainer.is_world_process_zero():
        _report(console, recipe, built, seconds, counts)
    if trainer.args.push_to_hub:
        trainer.push_to_hub(dataset_name=recipe.get("dataset_name"))
    trainer.end()
    return 0


def run_directory(recipe: Recipe) -> tuple[Path, str | None]:
    """Where a run writes, and the checkpoint it resumes from if it does.

    Without `output_dir`, a new directory `runs/<recipe>-<loss or trainer>` that no earlier run used, or the latest such one
    when resuming. A finished or interrupted run is never overwritten.

    Raises:
        UserError: The directory holds a run and no resume was asked for, or a resume finds no checkpoint.
    """
    resume = recipe.get("resume_from_checkpoint")
    if isinstance(resume, str) and resume.lower() in ("true", "false"):
        resume = resume.lower() == "true"
    named = recipe.get("output_dir")
    if named:
        directory = Path(named)
    else:
        # A resolved recipe is named after the run it stands in.
        name = recipe.path.resolve().parent.name if recipe.name == "recipe.resolved" else _run_name(recipe)
        stem = Path("runs", name)
        taken = [p for p in (stem, *(stem.with_name(f"{stem.name}-{i}") for i in range(2, 1000))) if _holds_a_run(p)]
        directory = stem
        if taken:
            number = len(taken) + 1
            directory = taken[-1] if resume is True else stem.with_name(f"{stem.name}-{number}")
    if isinstance(resume, str):
        if not Path(resume, "trainer_state.json").exists():
            raise UserError(
                f"`resume_from_checkpoint` is {resume}, which holds no trainer_state.json: not a checkpoint."
            )
        return directory, resume
    if resume:
        checkpoint = latest_checkpoint(directory)
        if checkpoint is None:
            raise UserError(
                f"Nothing to resume: {directory} holds no checkpoint. Start without `resume_from_checkpoint`."
            )
        return directory, checkpoint
    if _holds_a_run(directory):
        raise UserError(
            f"{directory} already holds a run. Continue it with `--resume_from_checkpoint true`, or choose another "
            "`--output_dir`."
        )
    return directory, None


def _run_name(recipe: Recipe) -> str:
    parts = [recipe.title] if recipe.loss is None or isinstance(recipe.loss, str) else list(recipe.loss)
    slug = re.sub(r"[^\w.]+", "-", "-".join(parts))
    return recipe.name if recipe.trainer and recipe.name.endswith(slug) else f"{recipe.name}-{slug}"


def _as_on_the_main_process(recipe: Recipe, *values: Any) -> list[Any]:
    """The main process's values on every process: a numbered directory must not depend on who looks first."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=bool(recipe.get("use_cpu")))
    return broadcast_object_list(list(values))


def _how_to_resume(directory: Path) -> str:
    checkpoint = latest_checkpoint(directory)
    if checkpoint is None:
        return "No checkpoint was due yet (`save_steps`), so there is nothing to resume from."
    # The resolved recipe holds the flags of this run too.
    resolved = directory / "recipe.resolved.yaml"
    return (
        f"Kept: {checkpoint}. Continue: trl-ext run {resolved} --output_dir {directory} --resume_from_checkpoint true"
    )


def _without(recipe: Recipe, *keys: str) -> Recipe:
    """The recipe without settings that say where a run is, not what it does, and with local paths made absolute."""
    values = {key: value for key, value in recipe.values.items() if key not in keys}
    for key in ("model_name_or_path", "dataset_name", "reward_adapter"):
        if isinstance(values.get(key), str) and Path(values[key]).exists():
            values[key] = str(Path(values[key]).resolve())
    if values.get("reward_funcs"):
        values["reward_funcs"] = [reward_sources.absolute(name) for name in values["reward_funcs"]]
    return replace(recipe, values=values)


def latest_checkpoint(directory: Path) -> str | None:
    """The checkpoint with the highest step that has a trainer state, or `None`."""
    found = [p for p in directory.glob("checkpoint-*") if (p / "trainer_state.json").exists()]
    return str(max(found, key=lambda p: int(p.name.rpartition("-")[2]))) if found else None


def _holds_a_run(directory: Path) -> bool:
    return any((directory / name).exists() for name in ("recipe.resolved.yaml", "adapter_config.json"))


def quieten(recipe: Recipe) -> None:
    """Environment of the libraries, before they are imported: what the recipe sets, and less noise."""
    for name, value in recipe.sections()["env"].items():
        os.environ[name] = value
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait starve each other as soon as a core has anything else to do.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import logging
    import warnings

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # optional CPU kernels it looks for on the Hub
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl|peft")
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def _report(console: Console, recipe: Recipe, built: Built, seconds: float, counts: tuple[int, int] | None) -> None:
    from trl.trainer.utils import get_config_model_id

    from trl_ext import demo
    from trl_ext.build import EMBEDDED
    from trl_ext.report import curves, summary

    directory, trainer = built.output_dir, built.trainer
    title = f"{recipe.name}: {recipe.title} on {recipe.get('dataset_name')}"
    picture = curves.draw(directory / "metrics.jsonl", directory / "curves.png", title)
    console.print(f"\ntrained {trainer.state.global_step} steps in {seconds:.0f} s")
    if counts is not None:
        console.print(f"reference: {counts[0]:,} completions from the cache, {counts[1]:,} computed and kept")
    table = summary.first_and_last(directory / "metrics.jsonl")
    is_demo = get_config_model_id(trainer.model.config) == str(demo.MODEL) and recipe.get("dataset_name") == EMBEDDED
    if is_demo and recipe.trainer != "reward" and hasattr(trainer.model, "disable_adapter"):
        console.print("sampling reviews with the adapter on and off …")
        table = _measure_the_demo(directory, trainer)
    if table is not None:
        console.print(table)
    what = "adapter" if hasattr(trainer.model, "disable_adapter") else "model"
    console.print(f"{what:8} {directory}\ncurves   {picture}")


def _measure_the_demo(directory: Path, trainer: Any) -> Any:
    from trl_ext import demo
    from trl_ext.demo import evaluate
    from trl_ext.report import preferences, summary

    lines = (demo.DATA / "test.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = preferences.held_out(trainer.model, trainer.processing_class, [json.loads(line) for line in lines])
    samples = evaluate.evaluate(trainer.model, trainer.processing_class)
    _write_json(directory / "evaluation.json", {"samples": samples, "pairs": pairs})
    return summary.before_and_after(samples, pairs)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
