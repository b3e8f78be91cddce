"""When a search ends, and what it does about trials that fail, with trials that train nothing."""

import time
from types import SimpleNamespace

import optuna
import pytest

from trl_ext.runs.signals import Interrupted
from trl_ext.search import loop
from trl_ext.search.clock import Clock, Cost
from trl_ext.search.rungs import OutOfTimeError
from trl_ext.search.settings import Settings
from trl_ext.search.study import Seeded, latest, quiet, requeue
from trl_ext.support.errors import UserError


class Objective:
    """Carries out trials by calling `act` with each."""

    def __init__(self, act, clock=None, *, varies_rate=True):
        self.act, self.clock, self.varies_rate = act, clock or Clock(None), varies_rate
        self.settings, self.measurer = Settings("accuracy", max_kl=1.0), SimpleNamespace(name="accuracy")
        self.number, self.trainer_steps, self.base = -1, 8, {}
        self.space = SimpleNamespace(size=None)

    def __call__(self, trial):
        self.number = trial.number
        if self.varies_rate:
            trial.set_user_attr("settings", {"learning_rate": trial.suggest_float("learning_rate", 0, 1)})
        trial.set_user_attr("max_steps", 8)
        return self.act(trial)


def measured(trial):
    number = {"value": 0.5, "low": 0.4, "high": 0.6}
    trial.set_user_attr("measured", {"value": number, "kl": number})
    return 0.5


@pytest.fixture
def made():
    with quiet():
        yield optuna.create_study(direction="maximize", sampler=Seeded(0))


def test_it_ends_after_so_many_trials_of_all_commands(made):
    lines = []
    assert "3 trials" in loop.carry_out(made, Objective(measured), 3, lines.append)
    assert "5 trials" in loop.carry_out(made, Objective(measured), 5, lines.append)
    assert len(made.trials) == len(lines) == 5


def test_a_few_combinations_are_tried_once_each(made):
    """Also if one of them is the recipe, one fails, and another command continues."""

    def act(trial):
        loss, rank = trial.suggest_categorical("loss", ["dpo", "ipo"]), trial.suggest_categorical("lora_r", [8, 16])
        beta = trial.suggest_categorical("dpo.beta", [0.1, 1.0, 10.0]) if loss == "dpo" else None
        tried.append((loss, rank, beta))
        if tried[-1] == ("ipo", 8, None):
            raise UserError("too small")
        return measured(trial)

    tried = []
    objective = Objective(act, varies_rate=False)
    objective.space.size = 8
    made.sampler = Seeded(0, 8)
    made.enqueue_trial({"loss": "dpo", "lora_r": 16, "dpo.beta": 1.0})
    loop.carry_out(made, objective, 3, print)
    made.sampler = Seeded(0, 8)
    assert "all 8 combinations" in loop.carry_out(made, objective, None, print)
    assert tried[0] == ("dpo", 16, 1.0) and len(tried) == len(set(tried)) == 8
    assert "all 8 combinations" in loop.carry_out(made, objective, None, print) and len(tried) == 8


def test_it_ends_when_no_trial_fits(made):
    clock = Clock(1.0, spent=3600 - 60, began=time.time(), costs=[Cost("dpo", 1.0, 1.0, None, 1.0)])
    loop.carry_out(made, Objective(measured), 1, print)
    assert "no further trial fits" in loop.carry_out(made, Objective(measured, Clock(1.0, spent=3595)), None, print)
    clock.spent += 50
    assert "no further trial fits" in loop.carry_out(made, Objective(measured, clock), None, print)
    assert len(made.trials) == 1


def test_a_trial_without_time_is_left_for_the_next_command(made):
    def act(trial):
        if trial.number == 1:
            raise OutOfTimeError
        return measured(trial)

    assert "does not fit" in loop.carry_out(made, Objective(act), 4, print)
    loop.carry_out(made, Objective(measured), 2, print)
    assert made.trials[2].params == made.trials[1].params and [each.number for each in latest(made.trials)] == [0, 2]


def test_without_any_result_the_time_was_too_short(made):
    def act(trial):
        raise OutOfTimeError

    clock = Clock(1.0, costs=[Cost("dpo", 100.0, 10.0, None, 20.0)])
    with pytest.raises(
        UserError, match=r"within 1 hours\. A trial of 8 steps takes about 4 min here"
    ):  # 100 + 8·10 + 20 + 20 s
        loop.carry_out(made, Objective(act, clock), None, print)


def test_an_interrupted_trial_is_repeated(made):
    def act(trial):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="Run the same command again"):
        loop.carry_out(made, Objective(act), 1, print)
    loop.carry_out(made, Objective(measured), 1, print)
    assert made.trials[0].params == made.trials[1].params and len(made.trials) == 2


def test_a_trial_that_cannot_be_trained_is_reported_and_others_go_on(made):
    def act(trial):
        if trial.number % 2 == 0:
            trial.set_user_attr("error", "Out of memory.")
            raise UserError("Out of memory.")
        return measured(trial)

    lines = []
    loop.carry_out(made, Objective(act), 4, lines.append)
    assert sum(line.endswith("failed. Out of memory.") for line in lines) == 4 and len(lines) == 8


def test_a_search_whose_trials_all_fail_ends(made):
    def act(trial):
        trial.set_user_attr("error", "Out of memory.")
        raise UserError("Out of memory.")

    with pytest.raises(UserError, match=r"The first 3 trials failed\. The last one: Out of memory\."):
        loop.carry_out(made, Objective(act), None, print)


def test_a_bug_is_not_taken_for_something_else(made):
    def act(trial):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        loop.carry_out(made, Objective(act), None, print)


def test_a_trial_that_another_command_repeats_is_given_up(made):
    """As after the computer slept: the other command found no sign of life."""
    lines = []

    def act(trial):
        if trial.number == 0:
            made.tell(0, state=optuna.trial.TrialState.FAIL)
            requeue(made, made.trials[0])
        return measured(trial)

    loop.carry_out(made, Objective(act), 2, lines.append)
    assert "another one repeats it" in lines[0]
    assert made.trials[1].params == made.trials[0].params and [each.number for each in latest(made.trials)] == [1, 2]
