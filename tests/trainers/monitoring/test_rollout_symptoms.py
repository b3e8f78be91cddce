"""Symptoms of policies that learn from what they sample, in traces made for them and in runs of both trainers."""

import pytest
import torch

from tests.trainers.helpers import weights
from tests.trainers.monitoring.test_symptoms import said, trace
from tests.trainers.online import helpers as online
from tests.trainers.ppo import helpers as ppo
from tests.trainers.rollout.conftest import model  # noqa: F401
from trl_ext.trainers.monitoring.callback import Watch, warnings_in
from trl_ext.trainers.monitoring.log_window import Facts
from trl_ext.trainers.monitoring.metrics_log import MetricsFile
from trl_ext.trainers.monitoring.rollout_symptoms import empty_rollouts, nothing_to_learn, silent_rollouts

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
    "groups/ties": lambda t: 1.0,
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
    assert said(trace(**GROUPS | {"score/std": lambda t: 0.4, "groups/ties": lambda t: 0.9}), Facts()) == {}


def test_rollouts_without_a_difference_are_counted_at_the_end():
    """Also in a run that is too short for a symptom; without them nothing is said."""
    records = [{"step": t, "groups/ties": float(t < 3)} for t in range(1, 6)]
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
    equal = [{"step": 1, "groups/ties": 1.0}, {"step": 2}, {"step": 3, "groups/ties": 1.0}]
    assert nothing_to_learn(equal) == "the completions of each prompt had equal scores"
    assert nothing_to_learn([*equal, {"step": 4, "groups/ties": 0.5}]) is None
    assert nothing_to_learn([{"step": 1, "loss": 0.7}]) is None  # a run that compares no completions


TRUNCATED = {
    "completions/left_out": lambda t: 1.0,
    "completions/eos_share": lambda t: 0.0,
    "score": lambda t: float(t % 3),
    "score/std": lambda t: 0.0,
    "grad_norm": lambda t: 0.0,
    "rewards/accuracies": None,
}


@pytest.mark.parametrize("compares", [{}, {"groups/ties": lambda t: 0.5}, {"pairs/ties": lambda t: 1.0}], ids=list)
def test_completions_that_are_all_left_out_of_the_loss(compares):
    """Whatever their scores are, and without a second warning about the gradient, which is 0."""
    found = said(trace(every=1, **TRUNCATED | compares), Facts())
    assert list(found) == ["left_out"] and found["left_out"][0] == 20
    text = found["left_out"][1]
    assert (
        "all completions of steps 1 to 20 were left out of the loss, so nothing is learned. All were truncated" in text
    )
    assert "Raise `max_completion_length`" in text
    unscored = TRUNCATED | compares | {"score": None, "completions/eos_share": lambda t: 0.5}
    assert "No reward function gave a completion a score." in said(trace(every=1, **unscored), Facts())["left_out"][1]
    both = TRUNCATED | compares | {"completions/eos_share": lambda t: 0.5}
    assert "Each had no score, or was truncated" in said(trace(every=1, **both), Facts())["left_out"][1]
    assert "left_out" not in said(trace(every=1, **TRUNCATED | {"completions/left_out": lambda t: 0.9}), Facts())


def test_rollouts_that_are_left_out_are_counted_at_the_end():
    left = [{"step": t, "completions/left_out": 1.0, "groups/ties": 1.0, "score": 1.0} for t in (1, 2)]
    learnt = {"step": 3, "completions/left_out": 0.5, "groups/ties": 0.0, "score": 1.0}
    assert "in 2 of 3 logged rollouts all completions were left out of the loss" in empty_rollouts([*left, learnt])
    assert "All were truncated" in empty_rollouts([*left, learnt])
    assert silent_rollouts([*left, learnt]) is None and empty_rollouts([learnt]) is None
    assert nothing_to_learn(left) == "all completions were left out of the loss"
    assert nothing_to_learn([*left, learnt]) is None
    assert (
        nothing_to_learn([*left, learnt | {"groups/ties": 1.0}]) == "the completions of each prompt had equal scores"
    )


@pytest.mark.parametrize("helpers", [ppo, online], ids=["ppo", "online"])
def test_a_run_whose_completions_are_all_truncated(model, tmp_path, capsys, helpers):  # noqa: F811
    """Too short for the symptom; the count at its end is printed once."""
    trainer = helpers.build(model, helpers.config(tmp_path, max_steps=3, mask_truncated_completions=True))
    words = range(104, 104 + trainer.args.max_completion_length)
    trainer._generate_single_turn = lambda prompts, *args, **kwargs: [
        [*words] for _ in prompts
    ]  # without an end token
    before = weights(trainer)
    trainer.add_callback(MetricsFile(trainer, tmp_path / "metrics.jsonl"))
    trainer.add_callback(Watch(trainer, tmp_path / "metrics.jsonl"))
    trainer.train()
    assert all(torch.equal(each, before[name]) for name, each in weights(trainer).items() if "critic" not in name)
    warnings = dict(warnings_in(tmp_path / "metrics.jsonl"))
    assert list(warnings) == ["empty_rollouts"]
    sampled = [log for log in trainer.recorder.logs if "completions/left_out" in log]
    sentence = f"in {len(sampled)} of {len(sampled)} logged rollouts all completions were left out of the loss"
    assert capsys.readouterr().out.count(sentence) == 1
