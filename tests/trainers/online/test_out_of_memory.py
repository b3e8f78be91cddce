"""Memory that runs out: an update on pairs runs again in halves to the same result, and all else ends in a sentence."""

import pytest
import torch

from tests.trainers.online.helpers import build, config, few_levels
from tests.trainers.ppo.test_out_of_memory import check_same_but_for_rounding, out_of_memory
from trl_ext.support.errors import UserError


class Small:
    """Memory fits two pairs; once it fails in the second part of a micro-batch, half of it done."""

    expected = 3  # once more where the micro-batch is run again as it was

    def __init__(self, trainer):
        self.failed = self.done = 0
        self.loss, trainer.update.policy_loss = trainer.update.policy_loss, self.policy_loss
        trainer.small = self

    def policy_loss(self, batch, sums):
        if len(batch["completion_ids"]) > 2:
            self.failed += 1
            out_of_memory()
        loss = self.loss(batch, sums)
        self.done += 1
        if self.done == 4:
            self.failed += 1
            out_of_memory()
        return loss


@pytest.mark.parametrize("loss", ["dpo", "simpo"])
def test_an_update_runs_again_in_halves_to_the_same_result(model, tmp_path, capsys, loss):
    def run(disturb=lambda trainer: None):
        args = config(tmp_path, loss=loss, max_steps=2, num_iterations=2, learning_rate=0.1)
        trainer = build(model, args, reward_funcs=few_levels)
        disturb(trainer)
        trainer.train()
        return trainer

    undisturbed, disturbed = run(), run(Small)
    assert 0 < undisturbed.recorder.logs[0]["pairs/ties"] < 1
    printed = capsys.readouterr().out
    assert (
        printed.count("out of memory in the update: the micro-batch is run again, with 2 pairs at a time from now on")
        == 1
    )
    assert (
        printed.count("out of memory in the update: the micro-batch is run again, with one pair at a time from now on")
        == 1
    )
    # A part of ties alone still runs one of them, which its entropy shows.
    check_same_but_for_rounding(disturbed, undisturbed, without=("step_time", "entropy"))


def test_a_resumed_run_goes_on_in_halves(model, tmp_path):
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trainer = build(model, config(tmp_path, **saving))
    Small(trainer)
    trainer.train()
    trainer = build(model, config(tmp_path, **saving))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert trainer.update.micro_batches.part_size == 1


def test_a_single_pair_that_does_not_fit_stops_with_a_sentence(model, tmp_path, monkeypatch):
    trainer = build(model, config(tmp_path))
    monkeypatch.setattr(trainer.update, "policy_loss", out_of_memory)
    with pytest.raises(UserError) as raised:
        trainer.train()
    batch = trainer._buffered_inputs[0]
    tokens = 2 * (batch["prompt_ids"].size(1) + batch["completion_ids"].size(2))
    sentence = str(raised.value)
    assert sentence.startswith(
        f"Out of memory in the update with a single pair of up to {tokens} tokens, prompt included"
    )
    assert "set `gradient_checkpointing: true`, lower `max_completion_length` or `lora_r`" in sentence


def test_other_phases_are_named_with_what_to_lower(model, tmp_path, monkeypatch):
    trainer = build(model, config(tmp_path, per_device_eval_batch_size=8))
    monkeypatch.setattr(torch.optim.SGD, "step", out_of_memory)
    with pytest.raises(UserError, match="Out of memory in training: lower `per_device_train_batch_size`"):
        trainer.train()
    monkeypatch.setattr(trainer.update, "policy_loss", out_of_memory)
    with pytest.raises(UserError, match="Out of memory in evaluation: lower `per_device_eval_batch_size`"):
        trainer.evaluate(trainer.train_dataset)
