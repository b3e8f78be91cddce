"""Print what a run achieved: the result, where its files are, and the commands that come next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl.trainer.utils import get_config_model_id

from trl_ext import demo
from trl_ext.evaluation import report as evaluation_report
from trl_ext.evaluation.evaluate import evaluate_run
from trl_ext.evaluation.next_commands import next_commands
from trl_ext.evaluation.rows import RowChoice
from trl_ext.evaluation.run_page.update import refresh
from trl_ext.evaluation.samples import Sampling
from trl_ext.model_files import adapter
from trl_ext.recipe import Recipe
from trl_ext.report import metrics_file, summary
from trl_ext.runs import memory_check, movement
from trl_ext.support import atomic
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError
from trl_ext.support.run_log import FILE
from trl_ext.trainers.monitoring.callback import warnings_in
from trl_ext.trainers.monitoring.rollout_symptoms import nothing_to_learn

if TYPE_CHECKING:
    from trl_ext.runs.run import Trained


def report(console: Any, recipe: Recipe, trained: Trained) -> None:
    """Print the result of a run. On the embedded data, whose reward is known, the run is evaluated as by `trl-ext eval`.

    If nothing was learned, that is said in place of results. The commands that come next are left out if the recipe's evaluation
    is still to come.

    Args:
        console: A `trl_ext.support.run_log.LoggedConsole`.
        recipe: The run's recipe.
        trained: The run, still in memory.
    """
    directory, trainer = trained.built.output_dir, trained.built.trainer
    metrics, has_adapter = directory / "metrics.jsonl", hasattr(trainer.model, "disable_adapter")
    console.print(f"trained {count(trainer.state.global_step, 'steps')} in {trained.seconds:.0f} s")
    if trained.counts is not None:
        cached, computed = trained.counts
        console.detail(
            f"reference log-probabilities: {count(cached, 'completions')} from the cache, {computed:,} computed"
        )
    tables, learned = summary.first_and_last(metrics), trained.moved is None or not trained.moved.is_nothing
    if not learned:
        tables = []
        steps, rate = trainer.state.global_step, trainer.args.learning_rate
        reason = nothing_to_learn(metrics_file.read(metrics) if metrics.exists() else [])
        console.print(movement.sentence(trained.moved, steps, rate, reason), markup=False)
    elif _is_demo(recipe, trainer) and has_adapter and not recipe.method.trains_scores:
        if trainer.args.world_size == 1:
            _evaluate(console, directory)
            tables = tables[1:]
        else:  # building what scores the pairs waits for all processes, and only this one reports
            console.print(f"Evaluate it in one process: trl-ext eval {directory}", markup=False)
    for table in tables:
        console.print()
        console.print(table)
    for _, warning in warnings_in(metrics):
        console.print(f"warning, {warning}", markup=False)
    if (memory := memory_check.compare(recipe, trainer, directory)) is not None:
        console.print(memory)
    page = refresh(directory, lambda text: console.print(text, markup=False), recipe)
    places = {
        "adapter" if has_adapter else "model": directory,
        **({"page": page} if page is not None else {}),
        "curves": directory / "curves.png",
        "log": directory / FILE,
    }
    console.print()
    for what, place in places.items():
        console.print(f"{what:8} {place}", markup=False)
    if recipe.evaluation is None:
        suggest(console, recipe, directory)


def suggest(console: Any, recipe: Recipe, directory: Path) -> None:
    """Print the commands that come next."""
    console.print("\nnext:")
    for command, purpose in next_commands(recipe, directory, adapter.is_in(directory)):
        console.print(f"  {command}   # {purpose}", markup=False)


def _is_demo(recipe: Recipe, trainer: Any) -> bool:
    is_model = get_config_model_id(trainer.model.config) == str(demo.MODEL)
    return is_model and recipe.get("dataset_name") == demo.EMBEDDED


def _evaluate(console: Any, directory: Path) -> None:
    """Evaluate the run as `trl-ext eval` does, and print completions and results."""
    console.print("evaluating on prompts and pairs that were not trained on …")
    try:
        record = evaluate_run(directory, RowChoice(), Sampling(), console.detail, lambda items, _: items)
    except UserError as error:  # the run itself is complete
        console.print(f"The run was not evaluated: {error}", markup=False)
        return
    atomic.write_json(directory / evaluation_report.file_name(record), record)
    console.print()
    evaluation_report.show_examples(console, record)
    console.print("true reward: share of positive words in a review")
    evaluation_report.show_result(console, record)
