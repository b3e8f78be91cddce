"""A recipe from file to run directory: train it, leave what is worth having, say what changed."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_ext import reward_sources
from trl_ext.recipe import Recipe, load
from trl_ext.runs import how_to_resume, run_directory

if TYPE_CHECKING:
    from rich.console import Console

    from trl_ext.build import Built


def main(path: str, overrides: dict[str, Any], force: bool = False) -> int:
    """Run a recipe. Returns the exit code 0; raises UserError for what the user can put right.

    Args:
        path: The recipe.
        overrides: Keys that win over it.
        force: Try even what cannot fit this machine's memory.
    """
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

    from trl_ext import build, environment, foresight
    from trl_ext.trainers.callbacks import AfterFirstStep

    if not force:
        for warning in foresight.check(recipe):
            console.print(warning)
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
        console.print(f"\nInterrupted after step {trainer.state.global_step}. {how_to_resume(directory)}")
        raise
    seconds = time.time() - started
    counts = trainer.reference_counts() if recipe.trainer is None else None  # from every process
    trainer.save_model(str(directory))
    trainer.create_model_card(model_name=directory.name, dataset_name=recipe.get("dataset_name"))
    if trainer.is_world_process_zero():
        _report(console, recipe, built, seconds, counts)
        if (memory := foresight.compare(recipe, trainer, directory)) is not None:
            console.print(memory)
    if trainer.args.push_to_hub:
        trainer.push_to_hub(dataset_name=recipe.get("dataset_name"))
    trainer.end()
    return 0


def _as_on_the_main_process(recipe: Recipe, *values: Any) -> list[Any]:
    """The main process's values on every process: a numbered directory must not depend on who looks first."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=bool(recipe.get("use_cpu")))
    return broadcast_object_list(list(values))


def _without(recipe: Recipe, *keys: str) -> Recipe:
    """The recipe without settings that say where a run is, not what it does, and with local paths made absolute."""
    values = {key: value for key, value in recipe.values.items() if key not in keys}
    for key in ("model_name_or_path", "dataset_name", "reward_adapter"):
        if isinstance(values.get(key), str) and Path(values[key]).exists():
            values[key] = str(Path(values[key]).resolve())
    if values.get("reward_funcs"):
        values["reward_funcs"] = [reward_sources.absolute(name) for name in values["reward_funcs"]]
    return replace(recipe, values=values)


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
