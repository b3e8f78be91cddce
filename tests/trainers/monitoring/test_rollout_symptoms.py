"""Symptoms of policies that learn from what they sample, in traces made for them and in runs of both trainers."""

import pytest

from tests.trainers.monitoring.test_symptoms import said, trace
from tests.trainers.online import helpers as online
from tests.trainers.ppo import helpers as ppo
from tests.trainers.rollout.conftest import model  # noqa: F401
from trl_ext.trainers.monitoring.callback import Watch, warnings_in
from trl_ext.trainers.monitoring.log_window import Facts
from trl_ext.trainers.monitoring.metrics_log import MetricsFile
from trl_ext.trainers.monitoring.rollout_symptoms import never_differed, silent_rollouts

SAMPLED = {
    "rewards/accuracies": None,
    "score": lambda t: 0.25,
    "score/std": lambda t: 1e-17,
    "kl/sequence": lambda t: 0.1,
    "explained_variance": lambda t: 0.5,
}
GROUPS = {
    **SAMPLED,
    "explained_variance": None,
    "frac_reward_zero_std": lambda t: 1.0,
}
PAIRS = SAMPLED | {"pairs/ties": lambda t: 1.0, "grad_norm": lambda t: 0.0}


@pytest.mark.parametrize(("every", "step"), [(1, 20), (2, 21), (10, 21), (25, 51)])
def test_a_reward_that_is_always_the_same(every, step):
    """After 20 steps and three rollouts, however seldom they are logged."""
    found = said(trace(steps=80, every=every, **SAMPLED), Facts())
    assert list(found) == ["constant_reward"] and found["constant_reward"][0] == step
    text = found["constant_reward"][1]
    assert (
        f"every completion of steps 1 to {step} had the score 0.25. Only the KL and the critic's error are left to learn from"
        in text
    )
    assert "`log_completions: true`" in text
    pairs = said(trace(steps=80, every=every, **PAIRS), Facts())
    assert (
        list(pairs) == ["constant_reward"]
        and "All pairs are tied, and nothing is learned" in pairs["constant_reward"][1]
    )


def test_a_reward_that_differs_anywhere_is_none_of_it():
    for differs in ({"score/std": lambda t: 1e-3 * (t % 10 == 1)}, {"score": lambda t: t % 3 - 1.0}):
        assert said(trace(**SAMPLED | differs), Facts()) == {}
    begins = said(trace(steps=80, **SAMPLED | {"score/std": lambda t: float(t < 30), "score": lambda t: 1.0}), Facts())
    assert begins["constant_reward"][0] == 51


def test_pairs_that_are_all_tied_while_prompts_differ():
    found = said(trace(**PAIRS | {"score/std": lambda t: 0.4}), Facts())
    assert list(found) == ["ties_alone"] and "never between completions of a prompt" in found["ties_alone"][1]
    assert (
        said(trace(**PAIRS | {"score/std": lambda t: 0.4, "pairs/ties": lambda t: 0.9, "grad_norm": lambda t: 1.0}))
        == {}
    )


def test_groups_whose_scores_are_all_equal_while_prompts_differ():
    constant = said(trace(**GROUPS), Facts())
    assert (
        list(constant) == ["constant_reward"] and "Only the KL is left to learn from" in constant["constant_reward"][1]
    )
    found = said(trace(**GROUPS | {"score/std": lambda t: 0.4}), Facts())
    assert list(found) == ["ties_alone"]
    assert "no prompt of steps 1 to 21 had completions with different scores" in found["ties_alone"][1]
    assert said(trace(**GROUPS | {"score/std": lambda t: 0.4, "frac_reward_zero_std": lambda t: 0.9}), Facts()) == {}


def test_rollouts_without_a_difference_are_counted_at_the_end():
    """Also in a run that is too short for a symptom; without them nothing is said."""
    records = [{"step": t, "frac_reward_zero_std": float(t < 3)} for t in range(1, 6)]
    assert "in 2 of 5 logged rollouts no prompt had completions with different scores" in silent_rollouts(records)
    assert silent_rollouts([{"step": 1, "score": 0.5}, {"step": 2, "pairs/ties": 0.9}]) is None


def test_a_kl_that_explodes_is_seen_where_rollouts_are_used_again():
    """Only every second record is of a fresh rollout."""
    records = trace(every=1, **SAMPLED | {"score/std": lambda t: 1.0, "completions/mean_length": lambda t: 20.0})
    for record in records:
        record["kl/sequence"] = 30.0
        if record["step"] % 2 == 0:
            for name in ("score", "score/std", "kl/sequence", "completions/mean_length"):
                del record[name]
    assert said(records, Facts())["exploding_kl"][0] == 5
    paired = [record | {"pairs/ties": 0.0} for record in records]
    assert "Raise `beta`" in said(paired, Facts())["exploding_kl"][1]


def constant(completions, **kwargs):
    return [0.3] * len(completions)


@pytest.mark.parametrize("helpers", [ppo, online], ids=["ppo", "online"])
@pytest.mark.parametrize("reward", [constant, ppo.count_the])
def test_runs_say_it_once(model, tmp_path, capsys, helpers, reward):  # noqa: F811
    args = helpers.config(tmp_path, max_steps=24, num_iterations=2, optim="adamw_torch", learning_rate=1e-3)
    trainer = helpers.build(model, args, reward_funcs=reward)
    trainer.add_callback(MetricsFile(trainer, tmp_path / "metrics.jsonl"))
    trainer.add_callback(Watch(trainer, tmp_path / "metrics.jsonl"))
    trainer.train()
    warnings = dict(warnings_in(tmp_path / "metrics.jsonl"))
    assert list(warnings) == (["constant_reward"] if reward is constant else [])
    printed = capsys.readouterr().out
    assert printed.count("had the score 0.3") == (reward is constant)
    deviations = [log["score/std"] for log in trainer.recorder.logs if "score/std" in log]
    assert len(deviations) == 12 and all((value < 1e-9) == (reward is constant) for value in deviations)


def test_a_run_whose_completions_never_differed():
    equal = [{"step": 1, "frac_reward_zero_std": 1.0}, {"step": 2}, {"step": 3, "frac_reward_zero_std": 1.0}]
    assert never_differed(equal)
    assert not never_differed([*equal, {"step": 4, "frac_reward_zero_std": 0.5}])
    assert not never_differed([{"step": 1, "loss": 0.7}])  # a run that compares no completions
