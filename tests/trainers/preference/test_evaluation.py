"""Evaluation runs on whole examples too, and averages over examples rather than over batches."""

import pytest
import torch
from datasets import Dataset

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, lora
from trl_ext import losses
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.common import forward


def test_a_short_last_batch_weighs_its_examples_and_no_more(tiny_model, tmp_path):
    settings = arguments(tmp_path, per_device_eval_batch_size=4)
    trainer = build(PairedPreferenceTrainer, PairedPreferenceConfig(**settings), tiny_model)
    held_out = Dataset.from_list(pairs(5, seed=9))
    measured = trainer.evaluate(held_out)
    examples = list(trainer._prepare_dataset(held_out, trainer.processing_class, trainer.args, "eval"))
    with torch.no_grad():
        tensors, _ = trainer.row_objective.score(trainer.model, trainer.rows.collate(examples))
        output = losses.get("dpo")(**{name: tensors[name] for name in losses.get("dpo").inputs})
    assert measured["eval_loss"] == pytest.approx(output.losses.mean().item(), rel=1e-5)
    assert measured["eval_rewards/chosen"] == pytest.approx(output.chosen_rewards.mean().item(), rel=1e-4)
    assert trainer.model.training is False and not trainer._metrics["train"]


@pytest.mark.parametrize("cls", [PairedPreferenceTrainer, UnpairedPreferenceTrainer])
def test_evaluation_during_training_leaves_training_as_it_was(cls, tiny_model, tmp_path):
    config_class = PairedPreferenceConfig if cls is PairedPreferenceTrainer else UnpairedPreferenceConfig
    final = {}
    for strategy in ("no", "steps"):
        settings = arguments(tmp_path, eval_strategy=strategy, eval_steps=1)
        trainer = build(cls, config_class(**settings), tiny_model, eval_dataset=Dataset.from_list(pairs(6, seed=9)))
        trainer.train()
        final[strategy] = torch.cat([p.flatten() for p in trainer.model.parameters() if p.requires_grad])
        if strategy == "steps":
            logs = [log for log in trainer.state.log_history if "eval_loss" in log]
            assert len(logs) == 3 and all("eval_rewards/margins" in log for log in logs)
    assert torch.equal(final["no"], final["steps"])


def test_resuming_continues_to_the_same_weights(tiny_model, tmp_path):
    """Interrupted after step 2 of 4 and resumed: bit-identical to the uninterrupted run."""
    settings = arguments(tmp_path / "run", max_steps=4, save_strategy="steps", save_steps=2, optim="adamw_torch")
    whole = build(PairedPreferenceTrainer, PairedPreferenceConfig(**settings), tiny_model)
    whole.train()
    resumed = build(PairedPreferenceTrainer, PairedPreferenceConfig(**settings), tiny_model)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for (name, one), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_reference_values_are_precomputed_anew_when_truncation_changes(tiny_model, tmp_path):
    """TRL's own cache would serve the values of another `max_length`."""
    data = tmp_path / "pairs.jsonl"
    Dataset.from_list(pairs(8)).to_json(data)
    found = {}
    for max_length in (24, 8):
        trainer = PairedPreferenceTrainer(
            model=tiny_model,
            args=PairedPreferenceConfig(
                **{**arguments(tmp_path / "run"), "max_length": max_length}, precompute_ref_log_probs=True
            ),
            train_dataset=Dataset.from_json(str(data), cache_dir=str(tmp_path / "cache")),
            peft_config=lora(),
        )
        kept = {example["prompt_ids"][-1]: example for example in trainer.train_dataset}
        row = list(kept.values())
        with trainer.references.policy() as reference:
            direct = trainer.row_objective.sum_logps(forward.run(reference, trainer.rows.collate(row))).chunk(2)[0]
        assert torch.allclose(torch.tensor([e["ref_chosen_logps"] for e in row]), direct, atol=1e-4)
        found[max_length] = direct.sum()
    assert found[24] != found[8]


def test_a_loss_that_sorts_is_evaluated_over_the_whole_batch_in_several_rows(tiny_model, tmp_path):
    found = []
    for row_tokens in (10_000, 60):
        config = PairedPreferenceConfig(**arguments(tmp_path, loss="aot", row_tokens=row_tokens))
        trainer = build(PairedPreferenceTrainer, config, tiny_model)
        found.append(trainer.evaluate(trainer.train_dataset))
        assert (len(trainer.rows.cut(list(trainer.train_dataset)[:8])) > 1) == (row_tokens == 60)
    assert found[1]["eval_loss"] == pytest.approx(found[0]["eval_loss"], rel=1e-5)
    assert found[1]["eval_rewards/margins"] == pytest.approx(found[0]["eval_rewards/margins"], rel=1e-4)
