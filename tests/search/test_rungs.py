"""When a trial is measured on its way, and when it is stopped, without a model."""

from types import SimpleNamespace

import optuna
import pytest

from trl_ext.search.clock import REPORT, Clock, Cost
from trl_ext.search.measure import Measured
from trl_ext.search.rungs import OutOfTimeError, Rungs
from trl_ext.search.settings import Settings
from trl_ext.search.study import quiet
from trl_ext.support.intervals import Estimate


@pytest.fixture(autouse=True)
def now(monkeypatch):
    """A clock that the test advances, in place of the computer's."""
    made = SimpleNamespace(seconds=0.0)
    for module in ("rungs", "clock"):
        monkeypatch.setattr(f"trl_ext.search.{module}.time", SimpleNamespace(time=lambda: made.seconds))
    return made


def number(value):
    return Estimate(value, value, value)


class Measurer:
    """Each measurement takes `seconds` and gives the next of `found`: the measure, and KL."""

    def __init__(self, found, now, seconds=0.0):
        self.found, self.now, self.seconds = list(found), now, seconds

    def base(self, model, *, is_whole):
        self.now.seconds += self.seconds
        return Measured(number(0.5), number(0.0), number(1.0), number(1.0))

    def measure(self, model, *, is_whole):
        self.now.seconds += self.seconds
        value, kl = self.found.pop(0)
        return Measured(number(value), number(kl), number(1.0), number(1.0))


def follow(measurer, clock, steps=16, seconds=0.0, trial=None):
    """Carry out the steps of a trial; returns the callback, and the steps that were measured."""
    with quiet():
        trial = trial or optuna.create_study(direction="maximize").ask()
    state = SimpleNamespace(global_step=0, max_steps=steps)
    trainer = SimpleNamespace(
        state=state,
        args=None,
        control=None,
        model=None,
        is_in_train=True,
        callback_handler=SimpleNamespace(on_train_end=lambda *_: None),
        accelerator=SimpleNamespace(unwrap_model=lambda model, **_: model),
    )
    made = Rungs(trial, Settings("accuracy", max_kl=1.0), measurer, clock, "dpo", trainer, {}, measurer.now.seconds)
    made.on_train_begin(None, state, None)
    for step in range(1, steps + 1):
        made.on_step_begin(None, state, None)
        measurer.now.seconds += seconds
        state.global_step = step
        made.on_step_end(None, state, None)
    return made, trial


def test_rungs_are_reported_at_equal_kl(now):
    made, trial = follow(Measurer([(0.7, 0.5), (0.9, 1.6)], now), Clock(None))
    reported = trial.study.trials[0].intermediate_values
    assert reported == {1: pytest.approx(0.5 + 0.2 * (1 / 0.5) ** 0.5), 2: pytest.approx(0.5 + 0.4 * (1 / 1.6) ** 0.5)}
    assert made.last.value.value == 0.9


def test_a_trial_that_is_behind_is_stopped(now):
    with quiet():
        study = optuna.create_study(
            direction="maximize", pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        )
        trials = [study.ask() for _ in range(2)]
    follow(Measurer([(0.8, 0.5), (0.9, 0.5)], now), Clock(None), trial=trials[0])
    with pytest.raises(optuna.TrialPruned):
        follow(Measurer([(0.7, 0.1)], now), Clock(None), trial=trials[1])


def test_a_trial_far_beyond_the_largest_kl_is_stopped_whatever_others_did(now):
    with pytest.raises(optuna.TrialPruned):
        follow(Measurer([(0.9, 2.1)], now), Clock(None))


@pytest.mark.parametrize(("left", "stops_at"), [(20, None), (18.5, 4), (7, 3), (4, 1)])
def test_a_trial_that_would_end_after_the_time_is_stopped(left, stops_at, now):
    """After measuring the base in 2 · 1 s, 16 steps and 2 rungs of 1 s and a last measurement of 1 s need 19 s. The first three
    steps say nothing about the others, and until the first rung, 0.7 times their speed has to be enough."""
    clock = Clock((2 + left + REPORT) / 3600, began=0.0)
    measurer = Measurer([(0.7, 0.5), (0.7, 0.5)], now, 1.0)
    if stops_at is None:
        follow(measurer, clock, seconds=1.0)
        assert now.seconds == 2 + 16 + 2
        return
    with pytest.raises(OutOfTimeError):
        follow(measurer, clock, seconds=1.0)
    assert now.seconds <= 2 + left and len(measurer.found) == (1 if stops_at == 4 else 2)


def test_the_measured_seconds_are_those_of_steps_and_measurements(now):
    made, _ = follow(Measurer([(0.7, 0.5), (0.7, 0.5)], now, 5.0), Clock(None), seconds=2.0)
    assert made.cost(16) == Cost("dpo", 0.0, 2.0, 5.0, None)  # measuring the base is no part of it
    assert made.clock.whole == 5.0
