"""Memory that runs out: an update on pairs runs again in shorter rows to the same result, and all else ends in a sentence."""

import re

import pytest
import torch

from tests.trainers.online.helpers import build, config, few_levels
from tests.trainers.ppo.test_out_of_memory import check_same_but_for_rounding, out_of_memory, repetitions
from trl_ext.support.errors import UserError


class Small:
    """Memory fits two pairs; once it fails in the second row of a step, the first of them done."""

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
        if self.done == 2:
            self.failed += 1
            out_of_memory()
        return loss


@pytest.mark.parametrize("loss", ["dpo", "simpo"])
def test_an_update_runs_again_in_shorter_rows_to_the_same_result(model, tmp_path, capsys, loss):
    def run(disturb=lambda trainer: None):
        args = config(tmp_path, loss=loss, max_steps=2, num_iterations=2, learning_rate=0.1)
        trainer = build(model, args, reward_funcs=few_levels)
        disturb(trainer)
        trainer.train()
        return trainer

    undisturbed, disturbed = run(), run(Small)
    assert 0 < undisturbed.recorder.logs[0]["pairs/ties"] < 1
    tokens = repetitions(capsys.readouterr().out, "in the update")
    assert len(tokens) > 1 and tokens == sorted(tokens, reverse=True)
    # A row of ties alone still runs one of them, which its entropy shows.
    check_same_but_for_rounding(disturbed, undisturbed, without=("step_time", "entropy"))


def test_a_resumed_run_continues_with_short_rows(model, tmp_path):
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trainer = build(model, config(tmp_path, **saving))
    Small(trainer)
    trainer.train()
    short = trainer.rows.memory.row_budget
    assert short < 64
    trainer = build(model, config(tmp_path, **saving))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert trainer.rows.memory.row_budget == short


def test_a_single_pair_that_does_not_fit_stops_with_a_sentence(model, tmp_path, monkeypatch):
    trainer = build(model, config(tmp_path))
    monkeypatch.setattr(trainer.update, "policy_loss", out_of_memory)
    with pytest.raises(UserError) as raised:
        trainer.train()
    # The prompt but its last token once, the last token before each of the two completions.
    sizes = {
        int(prompt.sum() - 1 + 2 + completions.sum())
        for batch in trainer._buffered_inputs
        for prompt, completions in zip(batch["prompt_mask"], batch["completion_mask"], strict=True)
    }
    sentence = str(raised.value)
    start = re.match(r"Out of memory in the update with a single pair of (\d+) tokens, prompt included", sentence)
    assert int(start[1]) in sizes
    assert "set `gradient_checkpointing: true`, lower `max_completion_length` or `lora_r`" in sentence


def test_other_phases_are_named_with_what_to_lower(model, tmp_path, monkeypatch):
    trainer = build(model, config(tmp_path, per_device_eval_batch_size=8))
    monkeypatch.setattr(torch.optim.SGD, "step", out_of_memory)
    with pytest.raises(UserError, match="Out of memory in training: lower `max_completion_length`"):
        trainer.train()
    monkeypatch.setattr(trainer.update, "policy_loss", out_of_memory)
    with pytest.raises(UserError, match="Out of memory in evaluation: lower `per_device_eval_batch_size`"):
        trainer.evaluate(trainer.train_dataset)
