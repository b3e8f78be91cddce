"""The best trial and the frontier, against their definitions tried out trial by trial."""

import itertools
import random

import optuna
import pytest

from trl_ext.search import result
from trl_ext.search.result import FINISHED, STOPPED, Row, best, frontier
from trl_ext.search.settings import Settings
from trl_ext.search.study import quiet

SETTINGS = Settings("accuracy", max_kl=1.0)


def number(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def finished(i, value, kl, **more):
    return Row(i, FINISHED, {"learning_rate": 1e-4}, number(value), number(kl), steps=8, max_steps=8, **more)


def many(seed):
    rng = random.Random(seed)
    grid = [round(rng.random(), 1) for _ in range(24)]  # with ties
    return [finished(i, grid[2 * i], 2 * grid[2 * i + 1]) for i in range(12)]


@pytest.mark.parametrize("seed", range(20))
def test_the_frontier_is_what_no_trial_beats(seed):
    rows = many(seed)
    on_it = frontier(rows)

    def beats(one, other):
        x, y = (one.kl["value"], -one.value["value"]), (other.kl["value"], -other.value["value"])
        return x != y and all(a <= b for a, b in zip(x, y, strict=True))

    unbeaten = {(r.kl["value"], r.value["value"]) for r in rows if not any(beats(other, r) for other in rows)}
    assert {(r.kl["value"], r.value["value"]) for r in on_it} == unbeaten
    assert all(
        a.kl["value"] < b.kl["value"] and a.value["value"] < b.value["value"] for a, b in itertools.pairwise(on_it)
    )


def test_trials_below_the_base_are_not_on_the_frontier():
    rows = [finished(0, 0.4, 0.1), finished(1, 0.6, 0.5)]
    assert [r.number for r in frontier(rows, number(0.5))] == [1]
    assert frontier([Row(0, STOPPED)]) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_best_is_the_largest_within_the_bound(seed):
    rows = many(seed)
    within = [r for r in rows if r.kl["value"] <= 1.0]
    assert best(rows, 1.0) is (max(within, key=lambda r: (r.value["value"], -r.number)) if within else None)
    assert best(rows, 0.0) is None or best(rows, 0.0).kl["value"] == 0


def study(n, objective, **options):
    with quiet():
        made = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0), **options)
        made.optimize(objective, n_trials=n)
    return made


def measured(trial, value, kl):
    trial.set_user_attr("measured", {name: number(each) for name, each in (("value", value), ("kl", kl))})
    trial.set_constraint("kl", kl - SETTINGS.max_kl)
    return value


def test_the_best_is_that_of_optuna_with_its_constraint():
    made = study(30, lambda t: measured(t, t.suggest_float("a", 0, 1), t.suggest_float("b", 0, 2)))
    assert best(result.rows(made), SETTINGS.max_kl).number == made.best_trial.number


def test_the_setting_that_decides_is_the_most_important():
    def objective(trial):
        learning_rate, unread = trial.suggest_float("learning_rate", 0, 1), trial.suggest_float("lora_r", 0, 1)
        return measured(trial, 0.5 + 0.4 * learning_rate + 0.001 * unread, 0.5)

    shares = result.importances(study(40, objective), SETTINGS, base=0.5)
    assert list(shares) == ["learning_rate", "lora_r"] and shares["learning_rate"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_importance_is_about_equal_kl():
    """More steps give more reward, at a KL that takes all of it back."""

    def objective(trial):
        steps, beta = trial.suggest_float("max_steps", 0, 1), trial.suggest_float("beta", 0, 1)
        kl = 1 + 8 * steps
        return measured(trial, 0.5 + (0.1 + 0.3 * beta) * kl**0.5, kl)

    assert next(iter(result.importances(study(60, objective), SETTINGS, base=0.5))) == "beta"


def test_few_trials_have_no_importances():
    made = study(7, lambda t: measured(t, t.suggest_float("a", 0, 1), 0.5))
    assert result.importances(made, SETTINGS, 0.5) == {}


def test_a_line_for_every_end_of_a_trial():
    def objective(trial):
        trial.set_user_attr("settings", {"loss": "ipo", "beta": 0.5})
        trial.set_user_attr("steps", 4), trial.set_user_attr("max_steps", 16)
        if trial.number == 1:
            trial.set_user_attr("rung_1", {"value": number(0.7), "kl": number(0.2)})
            raise optuna.TrialPruned
        return measured(trial, 0.8, 3.0 if trial.number else 0.4)

    lines = [result.line(each, SETTINGS, "accuracy") for each in study(3, objective).trials]
    assert lines == [
        "trial 0: ipo, beta 0.5 → accuracy 0.800 ± 0.100, KL 0.40 ± 0.10",
        "trial 1: ipo, beta 0.5 → stopped at step 4 of 16: accuracy 0.700, KL 0.20",
        "trial 2: ipo, beta 0.5 → accuracy 0.800 ± 0.100, KL 3.00 ± 0.10, above the largest KL of 1",
    ]
