"""Train and measure the settings of one trial on the base that all trials share."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from trl_ext.build.shared_base import SharedBase
from trl_ext.checkpoints import found
from trl_ext.recipe import Recipe, load
from trl_ext.runs import lock, run
from trl_ext.runs.signals import guard
from trl_ext.search.clock import Clock, predict
from trl_ext.search.measure import Measured, Measurer
from trl_ext.search.rungs import OutOfTimeError, Rungs
from trl_ext.search.settings import Settings
from trl_ext.search.space import OFF, Space
from trl_ext.support import terminal
from trl_ext.support.errors import UserError
from trl_ext.support.run_log import log
from trl_ext.trainers.common import console

TRIALS = "trials"
"""The folder of the trials' runs."""
KL = "kl"
"""The constraint of a trial: its KL minus the largest one."""


@dataclass
class Objective:
    """What Optuna maximises: called with a trial, it returns the measure of the trained policy.

    Attributes:
        path: The recipe.
        overrides: Recipe keys given by flags.
        space: What is varied.
        settings: Of the search.
        measurer: Measures policies.
        clock: The time of the search.
        directory: Of the search.
        tell: Prints a line.
        base: What the base measures, on all prompts (`True`) and on those of a rung (`False`).
        number: Of the last trial.
        trainer_steps: Steps of the last trial that began to train.
        per_epoch: Steps of an epoch; `None` before the first trial, or if the recipe gives the number of steps.
    """

    path: str
    overrides: Mapping[str, Any]
    space: Space
    settings: Settings
    measurer: Measurer
    clock: Clock
    directory: Path
    tell: Callable[[str], None]
    base: dict[bool, Measured] = field(default_factory=dict)
    number: int = -1
    trainer_steps: int = 0
    per_epoch: float | None = None
    _lender: SharedBase = field(default_factory=SharedBase)

    def __call__(self, trial: optuna.Trial) -> float:
        """Train and measure.

        Raises:
            TrialPruned: Others were better at a rung.
            OutOfTimeError: The trial does not fit into the time left.
            UserError: These settings cannot be trained.
        """
        self.number = trial.number
        keys = self.space.suggest(trial)
        trial.set_user_attr("settings", keys)
        try:
            recipe = load(self.path, {**self.overrides, **OFF, **keys}, to_train=True)
            if recipe.get("push_to_hub"):
                recipe = load(self.path, {**self.overrides, **OFF, **keys, "push_to_hub": False}, to_train=True)
            return self._timed(trial, recipe)
        except UserError as error:
            trial.set_user_attr("error", str(error))
            raise

    def _timed(self, trial: optuna.Trial, recipe: Recipe) -> float:
        steps = self._steps(recipe)
        if steps is not None and not self.clock.fits(
            predict(self.clock.costs, recipe.title, steps, len(self.settings.shares))
        ):
            raise OutOfTimeError
        started = time.time()
        trial.set_user_attr("began", started)
        try:
            return self._carry_out(trial, recipe, started)
        finally:
            trial.set_user_attr("seconds", time.time() - started)

    def _carry_out(self, trial: optuna.Trial, recipe: Recipe, began: float) -> float:
        # A trial that repeats another one has its folder, and continues from its checkpoint if there is one.
        folder = trial.user_attrs.get("folder", f"{TRIALS}/{trial.number:04d}")
        trial.set_user_attr("folder", folder)
        home = self.directory / folder
        watches: list[Rungs] = []

        def watch(built: Any) -> Rungs:
            watches.append(
                Rungs(trial, self.settings, self.measurer, self.clock, recipe.title, built.trainer, self.base, began)
            )
            return watches[0]

        with lock.writing(home):
            checkpoint = found.latest(home)
            if checkpoint is None:
                _clear(home)
            try:
                with terminal.quiet(), log.open(), console.about(f"trial {trial.number}"):
                    trained = run.train(
                        recipe, home, checkpoint and str(checkpoint), Console(quiet=True), self._lender, watch=watch
                    )
            except (optuna.TrialPruned, OutOfTimeError) as error:
                self._end(trial, watches[0], None)
                if isinstance(error, optuna.TrialPruned):
                    _bound(trial, watches[0].last, self.settings)
                    _clear(home)
                self._lender.take_back(watches[0].trainer)
                raise
            guard.last_words = last_words
            start = time.time()
            model = trained.built.trainer.accelerator.unwrap_model(
                trained.built.trainer.model, keep_torch_compile=False
            )
            measured = self.measurer.measure(model, is_whole=True)
            trial.set_user_attr("measured", measured.to_dict())
            self._end(trial, watches[0], time.time() - start)
            _bound(trial, measured, self.settings)
            trained.built.trainer.accelerator.end_training()
            self._lender.take_back(trained.built.trainer)
        return measured.value.value

    def _steps(self, recipe: Recipe) -> int | None:
        """The number of optimizer steps of a recipe; `None` if it is not known before the first trial."""
        if (steps := recipe.effective("max_steps")) > 0:
            return steps
        return self.per_epoch and round(self.per_epoch * recipe.effective("num_train_epochs"))

    def _end(self, trial: optuna.Trial, watch: Rungs, final: float | None) -> None:
        """Record what a trial took, for the estimates of the next ones."""
        state = watch.trainer.state
        trial.set_user_attr("steps", state.global_step)
        trial.set_user_attr("max_steps", state.max_steps)
        self.trainer_steps = state.max_steps
        if watch.trainer.args.max_steps <= 0 and state.num_train_epochs:
            self.per_epoch = state.max_steps / watch.trainer.args.num_train_epochs
        if (cost := watch.cost(state.global_step, final)) is not None:
            self.clock.costs.append(cost)
            trial.set_user_attr("cost", cost._asdict())


def last_words() -> str:
    """What is said where a command is interrupted."""
    return "Finished trials are kept. Run the same command again to continue."


def _bound(trial: optuna.Trial, measured: Measured | None, settings: Settings) -> None:
    """Tell Optuna how far a trial is beyond the largest KL."""
    if measured is not None:
        trial.set_constraint(KL, measured.kl.value - settings.max_kl)


def _clear(home: Path) -> None:
    """Remove what a trial wrote that has no result, but for its log and its lock."""
    for path in home.iterdir() if home.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in ("run.log", lock.FILE):
            path.unlink(missing_ok=True)
