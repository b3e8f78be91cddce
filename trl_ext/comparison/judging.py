"""What every run of a comparison is judged by: the same rows, the same prompts, the same scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trl_ext.build.rewards import load as load_reward
from trl_ext.build.trainer import training_config
from trl_ext.checks import reward_names
from trl_ext.comparison.grid import Cell
from trl_ext.demo import EMBEDDED
from trl_ext.evaluation import evaluate
from trl_ext.evaluation import rows as evaluation_rows
from trl_ext.recipe import Recipe
from trl_ext.report import metrics_file
from trl_ext.runs import finished
from trl_ext.runs.load import open_model
from trl_ext.runs.loaded import Opened
from trl_ext.runs.run import Trained
from trl_ext.support.errors import UserError


@dataclass(frozen=True)
class Judge:
    """Measures runs alike.

    Attributes:
        rows: Preferences that no run was trained on, unless they say so.
        sampling: How much each is sampled.
        scores: Reward functions by name.
        say: Is told what goes on.
        watch: Shows how far scoring is.
    """

    rows: evaluation_rows.Rows
    sampling: evaluate.Sampling
    scores: dict[str, Callable[..., list[float]]]
    say: Callable[[str], None]
    watch: evaluate.Watch

    @property
    def asked(self) -> dict[str, Any]:
        """What is measured, and how much of it, as plain values."""
        return {
            "data": self.rows.name,
            "rows": len(self.rows.dataset),
            "sampling": asdict(self.sampling),
            "scores": sorted(self.scores),
        }

    def trained(self, cell: Cell, trained: Trained) -> dict[str, Any]:
        """A record of a run that is still in memory."""
        trainer, home = trained.built.trainer, trained.built.output_dir
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False).eval()
        began = cell.recipe.get("model_name_or_path")
        opened = Opened(home, finished.recipe_at(home), began, model, trainer.processing_class)
        started = time.time()
        record = evaluate.judge(opened, self.rows, self.sampling, self.say, self.watch, self.scores)
        cached, computed = trained.counts or (0, 0)
        return {
            **facts(cell.name, cell.recipe),
            "seconds": round(trained.seconds, 1),
            "evaluation_seconds": round(time.time() - started, 1),
            "peak_bytes": trained.peak and trained.peak.bytes,
            "peak_of": trained.peak and trained.peak.of,
            "cached": cached,
            "computed": computed,
            "evaluation": record,
        }

    def finished(self, name: str, directory: Path) -> dict[str, Any]:
        """A record of a run that is loaded for it."""
        opened = open_model(directory, needs_reference=True)
        started = time.time()
        record = evaluate.judge(opened, self.rows, self.sampling, self.say, self.watch, self.scores)
        metrics = directory / "metrics.jsonl"
        logged = metrics_file.read(metrics) if metrics.exists() else []
        return {
            **facts(name, opened.recipe),
            "seconds": max((line["seconds"] for line in logged if "seconds" in line), default=None),
            "evaluation_seconds": round(time.time() - started, 1),
            "peak_bytes": None,
            "peak_of": None,
            "cached": None,
            "computed": None,
            "evaluation": record,
        }


def facts(name: str, recipe: Recipe) -> dict[str, Any]:
    """What a run was."""
    return {
        "name": name,
        "loss": recipe.title,
        "beta": recipe.loss_kwargs.get("beta"),
        "seed": recipe.effective("seed"),
    }


def rows(recipes: Sequence[Recipe], directory: Path, asked: evaluation_rows.Asked) -> evaluation_rows.Rows:
    """What all are evaluated on: by default what the first run on pairs, or else the first, holds out."""
    recipe = next((recipe for recipe in recipes if recipe.method.is_default and recipe.paired), recipes[0])
    return evaluation_rows.find(recipe, training_config(recipe, directory), asked)


def scores(names: Any, recipe: Recipe) -> dict[str, Callable[..., list[float]]]:
    """Reward functions by name: those named, or the known ones of the embedded data.

    Raises:
        UserError: A name that is no function.
    """
    if names is None:
        if recipe.get("dataset_name") != EMBEDDED:
            return {}
        from trl_ext.demo import rewards

        return {"sentiment": rewards.sentiment, "sentences that parse": rewards.fluency}
    found = {}
    for name in names if isinstance(names, list) else [names]:
        if (problem := reward_names.problem(str(name))) is not None:
            raise UserError(f"`--reward_funcs` names {name!r}, {problem}")
        function = load_reward(str(name))
        if isinstance(function, str):
            raise UserError(f"`--reward_funcs` names {name!r}, a model: completions are compared by functions only.")
        found[function.__name__] = function
    return found
