"""`compute_loss` on a batch of the trainer's own dataloader is TRL's loss of the same examples."""

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tests.trainers.helpers import arguments, build, relative_difference
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

SAME = [
    pytest.param((DPOTrainer, DPOConfig), (PairedPreferenceTrainer, PairedPreferenceConfig), {}, id="pairs"),
    pytest.param(
        (KTOTrainer, KTOConfig),
        (UnpairedPreferenceTrainer, UnpairedPreferenceConfig),
        {"loss_type": "apo_zero_unpaired", "train_sampling_strategy": "sequential"},
        id="labelled",
    ),
]


def of_first_batch(trainer):
    """Loss and gradient of the first batch of training, and the logits of the model's output."""
    batch = next(iter(trainer.get_train_dataloader()))
    loss, output = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    loss.backward()
    named = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    return loss.item(), {name: p.grad for name, p in named if p.grad is not None}, output.logits


@pytest.mark.parametrize("reference", ["adapter off", "second model", "precomputed"])
@pytest.mark.parametrize(("theirs", "ours", "settings"), SAME)
def test_it_is_trls_loss(theirs, ours, settings, reference, tiny_model, tmp_path):
    found = []
    for (cls, config_class), own in ((theirs, {}), (ours, {"row_tokens": 80})):  # in several rows
        given = {}
        if reference == "second model":
            torch.manual_seed(5)
            second = AutoModelForCausalLM.from_pretrained(tiny_model)
            second.lm_head.weight.data += 0.01 * torch.randn_like(second.lm_head.weight)
            given = {"ref_model": second, "peft_config": None}
        config = config_class(
            **arguments(tmp_path, **settings, **own, precompute_ref_log_probs=reference == "precomputed")
        )
        found.append(of_first_batch(build(cls, config, tiny_model, **given)))
    (expected, expected_gradient, expected_logits), (loss, gradient, logits) = found
    assert loss == pytest.approx(expected, rel=1e-5)
    assert relative_difference(gradient, expected_gradient) < 1e-4
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_it_is_the_loss_that_a_step_logs(loss, tiny_model, tmp_path):
    """With the baseline of that batch, in the case of KTO; and it leaves no metrics behind."""
    config = UnpairedPreferenceConfig(**arguments(tmp_path, loss=loss, max_steps=1))
    trainer = build(UnpairedPreferenceTrainer, config, tiny_model)
    batch = next(iter(trainer.get_train_dataloader()))
    computed = trainer.compute_loss(trainer.model, batch)
    assert computed.requires_grad and "ref_logps" not in batch[0] and not trainer._metrics["train"]
    trainer.train()
    assert trainer.recorder.logs[0]["loss"] == pytest.approx(computed.item(), abs=1e-4)  # logged with four decimals


def test_a_collated_batch_has_the_same_loss(tiny_model, tmp_path):
    trainer = build(PairedPreferenceTrainer, PairedPreferenceConfig(**arguments(tmp_path)), tiny_model)
    batch = next(iter(trainer.get_train_dataloader()))
    of_examples = trainer.compute_loss(trainer.model, batch)  # which opens the cache of reference values
    collated = trainer.data_collator(list(batch))
    assert trainer.compute_loss(trainer.model, collated).item() == pytest.approx(of_examples.item(), rel=1e-5)
    assert trainer.step_metrics.is_first_step


def test_a_collated_batch_has_no_baseline(tiny_model, tmp_path):
    trainer = build(UnpairedPreferenceTrainer, UnpairedPreferenceConfig(**arguments(tmp_path)), tiny_model)
    collated = trainer.data_collator(list(next(iter(trainer.get_train_dataloader()))))
    with pytest.raises(ValueError, match="this collated batch has no mismatched pairs"):
        trainer.compute_loss(trainer.model, collated)


def test_inputs_that_a_subclass_prepares_are_those_of_padded_rows(tiny_model, tmp_path):
    """An override of `_prepare_inputs` sees what TRL's would."""
    seen = []

    class Prepared(PairedPreferenceTrainer):
        def _prepare_inputs(self, inputs):
            seen.append(set(inputs))
            return super()._prepare_inputs(inputs)

    trainer = build(Prepared, PairedPreferenceConfig(**arguments(tmp_path, max_steps=1)), tiny_model)
    trainer.train()
    assert trainer.rows.is_packed is False
    assert all(keys >= {"input_ids", "attention_mask", "completion_mask"} for keys in seen) and seen
