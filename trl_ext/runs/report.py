"""Report a finished run: curves, what training changed, where the result is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl.trainer.utils import get_config_model_id

from trl_ext import demo
from trl_ext.demo import evaluate, preferences
from trl_ext.recipe import Recipe
from trl_ext.report import curves, summary
from trl_ext.runs import memory_check
from trl_ext.support import atomic
from trl_ext.support.counts import count
from trl_ext.trainers.monitoring.callback import warnings_in

if TYPE_CHECKING:
    from rich.console import Console

    from trl_ext.runs.run import Trained


def report(console: Console, recipe: Recipe, trained: Trained) -> None:
    """Print what a run achieved; draw its curves; measure the result on the embedded data, whose reward is known."""
    directory, trainer = trained.built.output_dir, trained.built.trainer
    has_adapter = hasattr(trainer.model, "disable_adapter")
    picture = draw_curves(recipe, directory)
    console.print(f"\ntrained {count(trainer.state.global_step, 'steps')} in {trained.seconds:.0f} s")
    if trained.counts is not None:
        cached, computed = trained.counts
        console.print(
            f"reference log-probabilities: {count(cached, 'completions')} from the cache, {computed:,} computed"
        )
    tables = summary.first_and_last(directory / "metrics.jsonl")
    if _is_demo(recipe, trainer) and has_adapter and not recipe.method.trains_scores:
        console.print("sampling reviews with the adapter on and off …")
        tables = [_measure_the_demo(directory, trainer), *tables[1:]]
    for table in tables:
        console.print(table)
    console.print(f"{'adapter' if has_adapter else 'model':8} {directory}\ncurves   {picture}")
    for _, warning in warnings_in(directory / "metrics.jsonl"):
        console.print(f"warning, {warning}", markup=False)
    if (memory := memory_check.compare(recipe, trainer, directory)) is not None:
        console.print(memory)


def draw_curves(recipe: Recipe, directory: Path) -> Path:
    """Draw what a run has logged so far. Returns the picture."""
    title = f"{recipe.name}: {recipe.title} on {recipe.get('dataset_name')}"
    return curves.draw(directory / "metrics.jsonl", directory / "curves.png", title)


def _is_demo(recipe: Recipe, trainer: Any) -> bool:
    is_model = get_config_model_id(trainer.model.config) == str(demo.MODEL)
    return is_model and recipe.get("dataset_name") == demo.EMBEDDED


def _measure_the_demo(directory: Path, trainer: Any) -> Any:
    """Write `evaluation.json`. Returns its table."""
    lines = (demo.DATA / "test.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = preferences.held_out(trainer.model, trainer.processing_class, [json.loads(line) for line in lines])
    samples = evaluate.evaluate(trainer.model, trainer.processing_class)
    atomic.write_json(directory / "evaluation.json", {"samples": samples, "pairs": pairs})
    return summary.before_and_after(samples, pairs)
