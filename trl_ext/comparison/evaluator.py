"""Evaluate every run of a comparison on the same rows, the same prompts and the same reward functions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trl_ext import losses
from trl_ext.build.config import training_config
from trl_ext.comparison.grid import Cell
from trl_ext.evaluation.evaluate import Progress, evaluate_model
from trl_ext.evaluation.reward_functions import RewardFunctions
from trl_ext.evaluation.rows import RowChoice, Rows, find_rows
from trl_ext.evaluation.samples import Sampling
from trl_ext.recipe import Recipe
from trl_ext.recipe.command import run_command
from trl_ext.report import metrics_file
from trl_ext.runs import finished
from trl_ext.runs.load import open_model
from trl_ext.runs.loaded import Opened
from trl_ext.runs.run import Trained


@dataclass(frozen=True)
class Evaluator:
    """Evaluates runs on equal terms.

    Attributes:
        rows: Held-out preferences; `rows.was_trained_on` says if a run trained on some of them. `None` if only a judge compares
            the runs; the part `evaluation` of a record is then `None` too.
        sampling: How many completions are sampled per run, and how.
        reward_functions: Reward functions for the completions, by name.
        log: Called with each message for the user.
        progress: Wraps the iteration over examples while they are scored.
        also: Called with the directory of each run and the run itself while it is in memory, such as to sample answers that are
            judged later.
    """

    rows: Rows | None
    sampling: Sampling
    reward_functions: RewardFunctions
    log: Callable[[str], None]
    progress: Progress
    also: Callable[[Path, Callable[[], Opened]], Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Data, sampling and reward functions, as plain values."""
        return {
            "data": self.rows and self.rows.name,
            "rows": 0 if self.rows is None else len(self.rows.dataset),
            "sampling": asdict(self.sampling),
            "scores": sorted(self.reward_functions),
        }

    def evaluate_trained(self, cell: Cell, trained: Trained) -> dict[str, Any]:
        """Evaluate a run that is still in memory; returns its record."""
        trainer, home = trained.built.trainer, trained.built.output_dir
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False).eval()
        began = cell.recipe.get("model_name_or_path")
        opened = Opened(home, finished.recipe_at(home), began, model, trainer.processing_class)
        started = time.time()
        record = self._evaluate(opened)
        cached, computed = trained.counts or (0, 0)
        return {
            **describe(cell.name, cell.recipe, cell.command),
            "seconds": round(trained.seconds, 1),
            "evaluation_seconds": round(time.time() - started, 1),
            "peak_bytes": trained.peak and trained.peak.bytes,
            "peak_of": trained.peak and trained.peak.of,
            "cached": cached,
            "computed": computed,
            "evaluation": record,
        }

    def evaluate_finished(self, name: str, directory: Path) -> dict[str, Any]:
        """Load and evaluate a finished run; returns its record."""
        opened = open_model(directory, needs_reference=True)
        started = time.time()
        record = self._evaluate(opened)
        metrics = directory / "metrics.jsonl"
        logged = metrics_file.read(metrics) if metrics.exists() else []
        return {
            **describe(name, opened.recipe, run_command(finished.home(directory) / finished.RECIPE, {})),
            "seconds": max((line["seconds"] for line in logged if "seconds" in line), default=None),
            "evaluation_seconds": round(time.time() - started, 1),
            "peak_bytes": None,
            "peak_of": None,
            "cached": None,
            "computed": None,
            "evaluation": record,
        }

    def _evaluate(self, opened: Opened) -> dict[str, Any] | None:
        record = None
        if self.rows is not None:
            record = evaluate_model(opened, self.rows, self.sampling, self.log, self.progress, self.reward_functions)
        else:
            opened.add_reference()
        if self.also is not None:
            self.also(opened.directory, lambda: opened)
        return record


def describe(name: str, recipe: Recipe, command: str) -> dict[str, Any]:
    """Name, loss, beta, learning rate and seed of a run, and the command that trains it."""
    betas = {part: beta for part, beta in _betas(recipe) if beta is not None}
    return {
        "name": name,
        "loss": recipe.title,
        "beta": next(iter(betas.values()))
        if len(betas) == 1
        else ", ".join(f"{k} {v:g}" for k, v in betas.items()) or None,
        "learning_rate": recipe.effective("learning_rate"),
        "seed": recipe.effective("seed"),
        "command": command,
    }


def _betas(recipe: Recipe) -> Iterator[tuple[str, float | None]]:
    """Beta of every part of the loss, defaults included."""
    if recipe.loss is None:
        return
    made = losses.get(recipe.loss, **recipe.loss_kwargs)
    for part in getattr(made, "components", (made,)):
        yield part.name, part.hyperparameters.get("beta")


def common_rows(recipes: Sequence[Recipe], directory: Path, choice: RowChoice) -> Rows:
    """The rows all runs are evaluated on: by default those held out by the first run on pairs, or else by the first run."""
    recipe = next((recipe for recipe in recipes if recipe.method.is_default and recipe.paired), recipes[0])
    return find_rows(recipe, training_config(recipe, directory), choice)
