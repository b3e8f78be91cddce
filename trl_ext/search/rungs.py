"""Measure a trial at its rungs, and stop it where others are better or the time is over."""

from __future__ import annotations

import time
from typing import Any, NoReturn

import optuna
from transformers import TrainerCallback

from trl_ext.search.clock import Clock, Cost
from trl_ext.search.equal_kl import at_equal_kl
from trl_ext.search.measure import Measured, Measurer
from trl_ext.search.settings import Settings

FEWEST = 3
"""Steps from which on their speed says something about the others."""
OPTIMISTIC = 0.7
FAR = 2
"""A trial whose KL at a rung is so many times the largest one of a result is stopped: KL hardly falls as training goes on."""

LARGEST = 2.0
"""Largest factor by which the gain of a trial at a rung is raised because its KL is still small: that of a quarter of `max_kl`."""


class OutOfTimeError(Exception):
    """Raised where a trial would not end within the time of the search."""


class Rungs(TrainerCallback):
    """Measures the policy at the rungs of one trial.

    Args:
        trial: Of Optuna.
        settings: Of the search.
        measurer: Measures the policy.
        clock: The time of the search.
        loss: Of the trial.
        trainer: Trains it.
        base: What the base measures, on all prompts (`True`) and on those of a rung (`False`); filled before the first step.
        began: When the trial began, in seconds since the epoch.

    Attributes:
        last: The last measurement; `None` before the first rung.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        settings: Settings,
        measurer: Measurer,
        clock: Clock,
        loss: str,
        trainer: Any,
        base: dict[bool, Measured],
        began: float,
    ) -> None:
        self.trial, self.settings, self.measurer, self.clock = trial, settings, measurer, clock
        self.loss, self.trainer, self.base = loss, trainer, base
        self.last: Measured | None = None
        self._began = began
        self._first_step: float | None = None
        self._done = 0
        self._measuring = 0.0
        self._each: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for is_whole in (True, False):
            if is_whole not in self.base:
                start = time.time()
                self.base[is_whole] = self.measurer.base(self._model(), is_whole=is_whole)
                seconds = time.time() - start
                self._began += seconds  # counted for no trial: it is not repeated
                self.clock.whole = max(self.clock.whole, seconds)
        self._done = state.global_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._first_step is None:
            self._first_step = time.time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, total = state.global_step, state.max_steps
        if step >= total:
            return
        resource = next((r for r, share in self.settings.shares if step == max(1, round(share * total))), None)
        if resource is not None:
            self._measure(resource)
        if not self.clock.fits(self._rest(step, total, is_exact=resource is not None)):
            self._stop(OutOfTimeError())

    def cost(self, steps: int, final: float | None = None) -> Cost | None:
        """The measured seconds so far; `None` before the first step.

        Args:
            steps: Carried out so far, over all commands.
            final: Seconds of the last measurement.
        """
        if self._first_step is None or steps <= self._done:
            return None
        training = time.time() - self._first_step - self._measuring - (final or 0.0)
        rung = max(self._each, default=None)
        return Cost(self.loss, self._first_step - self._began, training / (steps - self._done), rung, final)

    def _measure(self, resource: int) -> None:
        start = time.time()
        found = self.last = self.measurer.measure(self._model(), is_whole=False)
        seconds = time.time() - start
        self._measuring += seconds
        self._each.append(seconds)
        base = self.base[False].value.value
        value = at_equal_kl(found.value.value, found.kl.value, base, self.settings.max_kl, largest=LARGEST)
        self.trial.set_user_attr(f"rung_{resource}", found.to_dict())
        self.trial.report(value, resource)
        if self.trial.should_prune() or found.kl.value > FAR * self.settings.max_kl:
            self._stop(optuna.TrialPruned())

    def _rest(self, step: int, total: int, *, is_exact: bool) -> float:
        """Seconds of the rest of the trial: its steps at their measured speed, its rungs, its last measurement.

        Args:
            step: The one that is done.
            total: Steps of the trial.
            is_exact: False where a few slow steps must not end a trial that may yet fit.
        """
        now = self.cost(step)
        steps = (
            (total - step) * now.step * (1.0 if is_exact else OPTIMISTIC)
            if now and step - self._done >= FEWEST
            else 0.0
        )
        rungs = sum(round(share * total) > step for _, share in self.settings.shares)
        return steps + rungs * max(self._each, default=0.0) + self.clock.final

    def _stop(self, error: Exception) -> NoReturn:
        """End training by an exception, and leave no curves of a trial without a result."""
        trainer = self.trainer
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)  # trackers
        trainer.is_in_train = False
        raise error

    def _model(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model, keep_torch_compile=False)
