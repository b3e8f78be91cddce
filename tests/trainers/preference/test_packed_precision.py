"""Packed rows under 4 bits and LoRA: float32 and bfloat16, stored and recomputed; and what reaches the LM head."""

import pytest
import torch

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, nf4, relative_difference
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

TRAINERS = {
    "dpo": (PairedPreferenceTrainer, PairedPreferenceConfig),
    "kto": (UnpairedPreferenceTrainer, UnpairedPreferenceConfig),
}


def first_step(loss, model, folder, **settings):
    cls, config_class = TRAINERS[loss]
    bits = nf4()
    bits.bnb_4bit_compute_dtype = torch.bfloat16 if settings.get("bf16") else torch.float32
    config = config_class(**arguments(folder, max_steps=1, loss=loss, reference_cache=False, **settings))
    trainer = build(cls, config, model, examples=pairs(8), quantization_config=bits)
    trainer.train()
    return trainer, trainer.recorder.logs[0]["loss"], trainer.recorder.gradients[0]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("loss", TRAINERS)
def test_packed_and_padded_steps_agree_in_4_bits(loss, bf16, checkpointing, tiny_model, tmp_path):
    settings = {"bf16": bf16, "gradient_checkpointing": checkpointing}
    packed, loss_packed, gradient = first_step(loss, tiny_model, tmp_path / "packed", **settings)
    padded, loss_padded, expected = first_step(loss, tiny_model, tmp_path / "padded", packing=False, **settings)
    assert packed.rows.is_packed and not padded.rows.is_packed
    assert loss_packed == pytest.approx(loss_padded, rel=2e-2 if bf16 else 1e-5)
    # bfloat16 rounds the two paths' sums differently.
    assert relative_difference(gradient, expected) < (0.1 if bf16 else 1e-4)


@pytest.mark.parametrize("packing", [True, False])
def test_only_completion_tokens_reach_the_head(packing, tiny_model, tmp_path, monkeypatch):
    import trl.trainer.utils as utils

    seen = []
    original = utils._ChunkedLogProbFunction.apply

    def count(hidden, *args):
        seen.append(hidden.shape[0])
        return original(hidden, *args)

    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", count)
    config = PairedPreferenceConfig(**arguments(tmp_path, packing=packing, reference_cache=False))
    trainer = build(PairedPreferenceTrainer, config, tiny_model, examples=pairs(8))
    examples = list(trainer.train_dataset)
    trainer.rows.prepare(examples)
    seen.clear()
    trainer.training_step(trainer.model, examples)
    completions = sum(
        len(completion) for example in examples for completion in trainer.tokens.tree(example).completions
    )
    assert sum(seen) == 2 * completions  # reference and policy
