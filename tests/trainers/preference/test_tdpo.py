"""TDPO in training: sequential KL from full logits of plain PEFT, packed and padded; which settings are refused."""

import math

import pytest
import torch

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, lora, randomise_lora_b
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer


def trainer_for(model, folder, **changes):
    settings = {"per_device_train_batch_size": 4, "max_steps": 2, "loss": "tdpo", "beta": 0.5, **changes}
    config = PairedPreferenceConfig(**arguments(folder, **settings))
    return build(PairedPreferenceTrainer, config, model, examples=pairs(8), peft_config=lora())


@torch.no_grad()
def sequential_kl(model, prompt, completion):
    """Σ_t KL(ref ‖ policy) over the tokens of a completion, from all logits, in float64."""
    ids = torch.tensor([prompt + completion])
    found = []
    for is_reference in (True, False):
        if is_reference:
            with model.disable_adapter():
                logits = model(input_ids=ids).logits
        else:
            logits = model(input_ids=ids).logits
        found.append(logits[0, len(prompt) - 1 : -1].double().log_softmax(-1))
    reference, policy = found
    return (reference.exp() * (reference - policy)).sum().item()


@pytest.mark.parametrize("packing", [True, False])
def test_divergences_and_loss_of_a_step(packing, tiny_model, tmp_path):
    trainer = trainer_for(tiny_model, tmp_path, packing=packing)
    randomise_lora_b(trainer.model)
    examples = [dict(trainer.train_dataset[i]) for i in range(4)]
    tensors = trainer.evaluation.tensors(examples)
    assert trainer.rows.is_packed is packing
    for side in ("chosen", "rejected"):
        expected = [sequential_kl(trainer.model, e["prompt_ids"], e[f"{side}_ids"]) for e in examples]
        assert sorted(tensors[f"{side}_kl"].tolist()) == pytest.approx(sorted(expected), rel=1e-4, abs=1e-5)
        assert min(expected) > 1e-3
    whole = trainer.step.run(examples).means()["loss"]
    h = sum(
        sign * (tensors[f"{side}_logps"] - tensors[f"ref_{side}_logps"])
        for side, sign in (("chosen", 1), ("rejected", -1))
    )
    drift = 0.5 * (tensors["rejected_kl"] - tensors["chosen_kl"])
    assert whole == pytest.approx(-(0.5 * (h - drift)).sigmoid().log().mean().item(), abs=1e-5)
    assert trainer.references.cache is None


def test_gradient_does_not_depend_on_the_rows(tiny_model, tmp_path):
    gradients = []
    for row_tokens in (10_000, 1):
        trainer = trainer_for(tiny_model, tmp_path / str(row_tokens), row_tokens=row_tokens)
        randomise_lora_b(trainer.model)
        trainer.step.run([dict(trainer.train_dataset[i]) for i in range(4)])
        gradients.append({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_training_says_that_the_reference_is_not_cached(tiny_model, tmp_path, capsys):
    trainer = trainer_for(tiny_model, tmp_path)
    randomise_lora_b(trainer.model, scale=0.0)  # the policy is the reference
    trainer.train()
    assert "reference: not cached: the loss compares whole next-token distributions" in capsys.readouterr().out
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["kl/chosen"] == pytest.approx(0.0, abs=1e-5)


def test_precomputed_values_are_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="keeps one log-probability per completion, and the loss tdpo compares"):
        trainer_for(tiny_model, tmp_path, precompute_ref_log_probs=True)
