"""Memory that runs out: an update runs again in shorter rows to the same result, and everything else ends in a sentence."""

import re

import pytest
import torch
from trl import RLOOTrainer

from tests.trainers.helpers import relative_difference
from tests.trainers.ppo.helpers import build, config, count_the
from trl_ext.support.errors import UserError
from trl_ext.trainers.common import forward


def out_of_memory(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory (injected)")


def check_same_but_for_rounding(disturbed, undisturbed, without=("step_time",)):
    """Steps, gradients and logs of a trainer that ran out of memory a few times, against one that did not."""
    assert disturbed.small.failed > 2 and disturbed._step == undisturbed._step
    for gradients, expected in zip(disturbed.recorder.gradients, undisturbed.recorder.gradients, strict=True):
        assert relative_difference(gradients, expected) < 1e-5
    for log, expected in zip(disturbed.recorder.logs, undisturbed.recorder.logs, strict=True):
        assert log.keys() == expected.keys()
        for name in log.keys() - {*without}:
            assert log[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


class Small:
    """Memory fits two completions of the policy; the critic fails twice in the second row of a step, one of them done."""

    def __init__(self, trainer):
        self.failed = self.valued = 0
        self.losses = trainer.update.policy_loss, trainer.update.critic_loss
        trainer.update.policy_loss, trainer.update.critic_loss = self.policy_loss, self.critic_loss
        trainer.small = self

    def policy_loss(self, batch, sums):
        if len(batch["completion_ids"]) > 2:
            self.failed += 1
            out_of_memory()
        return self.losses[0](batch, sums)

    def critic_loss(self, batch, sums):
        self.valued += 1
        loss = self.losses[1](batch, sums)
        if self.valued in (2, 4):
            self.failed += 1
            out_of_memory()
        return loss


def repetitions(printed, phase):
    """Tokens of the rows that a step is run again with, in the order in which they are printed."""
    text = " ".join(printed.split())
    assert text.count(f"out of memory {phase}: cached memory was freed, and the step is run again as it was") == 1
    again = rf"out of memory {phase}: the step is run again, with rows of up to (\d+) tokens from now on"
    return [int(tokens) for tokens in re.findall(again, text)]


@pytest.mark.parametrize("kl", [{}, {"kl_placement": "loss", "kl_estimator": "k2"}], ids=["in reward", "in loss"])
def test_an_update_runs_again_in_shorter_rows_to_the_same_result(model, tmp_path, capsys, kl):
    def run(disturb=lambda trainer: None):
        trainer = build(model, config(tmp_path, max_steps=2, num_iterations=2, learning_rate=0.1, **kl))
        disturb(trainer)
        trainer.train()
        return trainer

    undisturbed, disturbed = run(), run(Small)
    printed = capsys.readouterr().out
    policy, critic = (repetitions(printed, f"in the {role}'s update") for role in ("policy", "critic"))
    assert len(policy) > 1 and len(critic) == 1 and [*policy, *critic] == sorted([*policy, *critic], reverse=True)
    assert disturbed.rows.memory.row_budget == critic[0]  # rows stay short, of both roles
    check_same_but_for_rounding(disturbed, undisturbed)


@pytest.mark.parametrize(("role", "method"), [("policy", "policy_loss"), ("critic", "critic_loss")])
def test_a_single_completion_that_does_not_fit_stops_with_a_sentence(model, tmp_path, monkeypatch, role, method):
    trainer = build(model, config(tmp_path))
    monkeypatch.setattr(trainer.update, method, out_of_memory)
    with pytest.raises(UserError) as raised:
        trainer.train()
    assert str(raised.value).startswith(f"Out of memory in the {role}'s update with a single completion of ")
    assert "set `gradient_checkpointing: true`, lower `max_completion_length` or `lora_r`" in str(raised.value)


def failing_reward(completions, **kwargs):
    out_of_memory()


TOGETHER = "lower `per_device_train_batch_size`, `steps_per_generation` or `gradient_accumulation_steps`, or "
PHASES = {
    "while completions were sampled": (RLOOTrainer, "_generate_single_turn", TOGETHER),
    "while completions were scored under policy and reference": (forward, "run", "lower "),
    "while the critic computed values": (forward, "scalars", "lower "),
}


@pytest.mark.parametrize("phase", PHASES)
def test_other_phases_are_named_with_what_to_lower(model, tmp_path, monkeypatch, phase):
    trainer = build(model, config(tmp_path))
    owner, name, remedy = PHASES[phase]
    monkeypatch.setattr(owner, name, out_of_memory)
    with pytest.raises(UserError) as raised:
        trainer.train()
    assert str(raised.value) == (
        f"Out of memory {phase}: {remedy}`max_completion_length`, or free memory on the device."
    )


def test_memory_that_runs_out_elsewhere_is_reported_too(model, tmp_path, monkeypatch):
    trainer = build(model, config(tmp_path))
    monkeypatch.setattr(torch.optim.SGD, "step", out_of_memory)
    with pytest.raises(
        UserError, match="Out of memory in training: lower `max_completion_length` or `lora_r`, or set"
    ):
        trainer.train()


def test_a_reward_function_that_runs_out_of_memory_is_a_phase_too(model, tmp_path):
    trainer = build(model, config(tmp_path), reward_funcs=[count_the, failing_reward])
    with pytest.raises(UserError, match="Out of memory while rewards were computed: lower"):
        trainer.train()


def test_evaluation_names_its_own_batch(model, tmp_path, monkeypatch):
    trainer = build(model, config(tmp_path, per_device_eval_batch_size=8))
    monkeypatch.setattr(trainer.update, "policy_loss", out_of_memory)
    with pytest.raises(UserError, match="Out of memory in evaluation: lower `per_device_eval_batch_size`"):
        trainer.evaluate(trainer.train_dataset)
    monkeypatch.setattr(RLOOTrainer, "_generate_single_turn", out_of_memory)
    with pytest.raises(UserError, match="completions were sampled: lower `per_device_eval_batch_size`, or"):
        trainer.evaluate(trainer.train_dataset)


def test_other_errors_are_left_alone(model, tmp_path, monkeypatch):
    trainer = build(model, config(tmp_path))

    def broken(*args):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(trainer.update, "critic_loss", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trainer.train()
