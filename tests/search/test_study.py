"""Sampler, pruner and storage: what is drawn, what is stopped, and what two processes see of each other."""

import json
import random
import subprocess
import sys
import time

import optuna
import pytest

from trl_ext.search import study as studies
from trl_ext.search.settings import HYPERBAND, Settings
from trl_ext.search.study import Seeded, default_url, latest, open_study, pruner, quiet, refuse_others, requeue
from trl_ext.support.errors import UserError

SETTINGS = Settings("accuracy", max_kl=1.0)


def objective(trial):
    loss = trial.suggest_categorical("loss", ["dpo", "ipo"])
    return -abs(trial.suggest_float(f"{loss}.beta", 0.1, 10, log=True) - 1)


def drawn(made):
    return [each.params for each in made.trials]


def test_a_continued_search_draws_what_the_uninterrupted_one_draws(tmp_path):
    with quiet():
        whole, parts = (open_study(default_url(tmp_path), name, SETTINGS, {}) for name in ("whole", "parts"))
        whole.optimize(objective, n_trials=14)
        for n in (5, 9):  # each as a new process would open it
            parts = open_study(default_url(tmp_path), "parts", SETTINGS, {})
            parts.optimize(objective, n_trials=n)
        other = optuna.create_study(sampler=Seeded(1), direction="maximize")
        other.optimize(objective, n_trials=14)
    assert drawn(whole) == drawn(parts) and len({str(each) for each in drawn(whole)}) == 14
    assert drawn(whole) != drawn(other)


def promoted(values, eta):
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), written a second time: at a rung, a trial goes on if it is
    among the best 1/eta of those that reached it, or the best of fewer than eta."""
    rungs, reached = {}, []
    for of_trial in values:
        for resource, value in of_trial.items():
            rungs.setdefault(resource, []).append(value)
            ahead = sum(other > value for other in rungs[resource])
            if ahead >= max(1, len(rungs[resource]) // eta):
                break
        else:
            resource = None
        reached.append(resource)
    return reached


@pytest.mark.parametrize("eta", [2, 3])
def test_trials_are_stopped_as_by_successive_halving(eta):
    settings = Settings("accuracy", reduction_factor=eta)
    resources = [resource for resource, _ in settings.shares]
    rng = random.Random(eta)
    values = [{resource: rng.random() for resource in resources} for _ in range(40)]
    stopped = []

    def reporting(trial):
        trial.suggest_float("x", 0, 1)
        stopped.append(None)
        for resource, value in values[trial.number].items():
            trial.report(value, resource)
            if trial.should_prune():
                stopped[-1] = resource
                raise optuna.TrialPruned
        return 0.0

    with quiet():
        made = optuna.create_study(direction="maximize", pruner=pruner(settings), sampler=Seeded(0))
        made.optimize(reporting, n_trials=len(values))
    assert stopped == promoted(values, eta)
    assert 0 < stopped.count(None) < len(values) / eta + 2


def test_rungs_are_shares_of_the_steps():
    assert Settings("accuracy").shares == [(1, 0.25), (2, 0.5)] and Settings("accuracy").resource == 4
    assert Settings("accuracy", reduction_factor=3, rungs=3).shares == [(1, 1 / 27), (3, 1 / 9), (9, 1 / 3)]
    assert Settings("accuracy", pruner="none").shares == []
    assert isinstance(pruner(Settings("accuracy", pruner=HYPERBAND)), optuna.pruners.HyperbandPruner)


def test_a_trial_that_was_stopped_from_outside_is_repeated_with_its_settings(tmp_path):
    def interrupted(trial):
        objective(trial)
        trial.set_user_attr("folder", "trials/0000")
        trial.report(0.5, 1)
        raise KeyboardInterrupt

    with quiet():
        made = open_study(default_url(tmp_path), "search", SETTINGS, {})
        with pytest.raises(KeyboardInterrupt):
            made.optimize(interrupted, n_trials=1)
        requeue(made, made.trials[0])
        made.optimize(objective, n_trials=1)
    first, second = made.trials
    assert first.params == second.params and second.user_attrs["folder"] == "trials/0000"
    assert [each.number for each in latest(made.trials)] == [1]


WORKER = """
import sys, time
from trl_ext.search.study import open_study, quiet
from trl_ext.search.settings import Settings
def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("process", sys.argv[2])
    time.sleep(0.05)
    return x
with quiet():
    made = open_study(sys.argv[1], "search", Settings("accuracy"), {"a": 1})
    open(sys.argv[2], "w").close()
    import os
    while not os.path.exists(sys.argv[3]): time.sleep(0.01)
    made.optimize(objective, n_trials=8)
"""


def test_two_processes_share_the_trials_of_one_file(tmp_path):
    url, names = default_url(tmp_path), [str(tmp_path / "a"), str(tmp_path / "b")]
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, url, *pair]) for pair in (names, names[::-1])]
    assert [each.wait(120) for each in workers] == [0, 0]
    with quiet():
        trials = open_study(url, "search", SETTINGS, {}).trials
    assert [each.number for each in trials] == list(range(16)) and all(map(studies.is_over, trials))
    assert {each.user_attrs["process"] for each in trials} == set(names)
    assert len({each.params["x"] for each in trials}) == 16


def test_a_killed_trial_is_found_by_its_heartbeat(tmp_path, monkeypatch):
    """A process that is killed leaves its trial running; another one repeats it once it gave no sign of life for long enough."""
    monkeypatch.setattr(studies, "HEARTBEAT", 1)
    monkeypatch.setattr(studies, "GRACE", 1)
    with quiet():
        made = open_study(default_url(tmp_path), "search", SETTINGS, {})
        trial = made.ask()
        objective(trial)
        made._storage.record_heartbeat(trial._trial_id)
        time.sleep(2.5)
        made.optimize(objective, n_trials=1)
    first, second = made.trials
    assert first.state == optuna.trial.TrialState.FAIL and second.params == first.params


def test_a_storage_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="cannot be opened"):
        open_study(f"sqlite:///{tmp_path}/none/trials.db", "search", SETTINGS, {})
    with pytest.raises(UserError, match="as SQLAlchemy reads it") as error:
        open_study("nosuchdatabase://me:secret@host/db", "search", SETTINGS, {})
    assert "secret" not in str(error.value)


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    refuse_others(tmp_path, {"settings": {"max_kl": 1.0}})
    refuse_others(tmp_path, {"settings": {"max_kl": 1.0}})
    with pytest.raises(UserError, match=r"`max_kl` was 1\.0 and is 2\.0"):
        refuse_others(tmp_path, {"settings": {"max_kl": 2.0}})
    assert json.loads((tmp_path / "asked.json").read_text()) == {"settings": {"max_kl": 1.0}}
