"""Carry out trials, one after the other, until the time, their number or a signal ends the search."""

from __future__ import annotations

from collections.abc import Callable

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from trl_ext.recipe import Recipe
from trl_ext.runs.signals import Interrupted, guard
from trl_ext.search import result, study
from trl_ext.search.clock import Clock, Cost, covered, predict
from trl_ext.search.rungs import OutOfTimeError
from trl_ext.search.trial import Objective, last_words
from trl_ext.support.counts import are, count
from trl_ext.support.errors import UserError
from trl_ext.support.progress import duration

MOST_FAILED = 3
"""Trials that fail, without any that has a result, before the search ends with the error of the last one."""


def learn(clock: Clock, made: optuna.Study) -> None:
    """Read from earlier trials how much time was spent, and how long each part of a trial takes."""
    trials = made.get_trials(deepcopy=False)
    times = [
        (each.user_attrs["began"], each.user_attrs["began"] + each.user_attrs.get("seconds", 0.0))
        for each in trials
        if "began" in each.user_attrs
    ]
    clock.spent = covered(times, clock.began)
    clock.costs = [Cost(**each.user_attrs["cost"]) for each in trials if "cost" in each.user_attrs]


def enqueue_recipe(made: optuna.Study, objective: Objective, recipe: Recipe) -> None:
    """Let the first trial of a search be the recipe as it is, if all its settings are in their ranges."""
    parameters = objective.space.parameters(recipe)
    if parameters and not made.get_trials(deepcopy=False):
        made.enqueue_trial(parameters, user_attrs={"is_recipe": True}, skip_if_exists=True)


def beginning(made: optuna.Study, clock: Clock, trials: int | None) -> str:
    """What is there already, and how long the search goes on."""
    done = [each for each in study.latest(made.get_trials(deepcopy=False)) if study.is_over(each)]
    kept = f"{count(len(done), 'trials')} of earlier commands {are(len(done))} kept. " if done else ""
    limits = [f"{duration(max(clock.left, 0.0))} left"] if clock.hours is not None else []
    limits += [f"until {count(trials, 'trials')} are carried out"] if trials is not None else []
    return f"{kept}Searching: {', '.join(limits)}."


def carry_out(made: optuna.Study, objective: Objective, trials: int | None, tell: Callable[[str], None]) -> str:
    """Carry out trials. Returns a sentence on why the search ended.

    Args:
        made: The study.
        objective: Carries out one trial.
        trials: Number of trials of the whole search; `None` for no limit.
        tell: Prints a line.

    Raises:
        Interrupted: A signal came; the trial that was being carried out is repeated by the next command.
        UserError: Every trial fails.
    """
    guard.last_words = last_words
    failures = 0
    while True:
        done = made.get_trials(deepcopy=False)
        if trials is not None and sum(map(study.is_over, done)) >= trials:
            return f"The search ends: {trials:,} trials are carried out."
        if study.are_all_tried(done, objective.space.size):
            return f"The search ends: all {objective.space.size:,} combinations of settings are tried."
        shortest = min((each.user_attrs["max_steps"] for each in done if "max_steps" in each.user_attrs), default=None)
        if not objective.clock.fits_any(shortest, len(objective.settings.shares)):
            _require_any(made, objective)
            return "The search ends: no further trial fits into the time left."
        objective.number = -1  # until the trial has begun
        try:
            made.optimize(objective, n_trials=1, catch=(UserError,))
        except (OutOfTimeError, KeyboardInterrupt) as error:
            if (left := _trial(made, objective.number)) is not None and left.state == TrialState.FAIL:
                study.requeue(made, left)
            if isinstance(error, OutOfTimeError):
                _require_any(made, objective)
                return "The search ends: the last trial does not fit into the time left."
            raise Interrupted(last_words()) from error
        except (UpdateFinishedTrialError, ValueError):
            if not study.is_repeated(made, objective.number):
                raise
            tell(
                f"trial {objective.number}: this command gave no sign of life for {study.GRACE} s, so another one repeats it."
            )
            continue
        study.keep_base(made, objective.base)
        over = _trial(made, objective.number)
        tell(result.line(over, objective.settings, objective.measurer.name))
        if over.state == TrialState.FAIL:
            failures += 1
            if failures >= MOST_FAILED and not any(map(study.is_over, made.get_trials(deepcopy=False))):
                raise UserError(
                    f"The first {failures} trials failed. The last one: {over.user_attrs.get('error', 'unknown')}"
                )


def _require_any(made: optuna.Study, objective: Objective) -> None:
    """UserError if the time is over before any trial has a result."""
    clock = objective.clock
    if any(each.state == TrialState.COMPLETE for each in made.get_trials(deepcopy=False)):
        return
    steps = objective.trainer_steps
    long = (
        predict(clock.costs, clock.costs[-1].loss, steps, len(objective.settings.shares)) + clock.final
        if clock.costs and steps
        else 0
    )
    takes = f"A trial of {steps:,} steps takes about {duration(long)} here. " if long else ""
    raise UserError(
        f"No trial could be finished within {clock.hours:g} hours. {takes}Give more `--hours`, or shorten the trials, for instance with "
        "`--max_steps`, `--samples` and `--max_new_tokens`."
    )


def _trial(made: optuna.Study, number: int) -> FrozenTrial | None:
    """The trial of this number."""
    return next((each for each in made.get_trials(deepcopy=False) if each.number == number), None)
