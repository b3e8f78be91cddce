"""At preference learning rates float32 adapter weights move and bfloat16 ones do not."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from tests.conftest import pairs
from tests.trainers.helpers import arguments, lora, nf4
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer


def moved(dtype: str, tiny_model: str, tmp_path) -> float:
    """Share of lora_A entries that changed over 250 steps of AdamW at 5e-6."""
    settings = arguments(
        tmp_path, max_steps=250, learning_rate=5e-6, optim="adamw_torch", per_device_train_batch_size=2
    )
    trainer = PairedPreferenceTrainer(
        model=tiny_model,
        args=PairedPreferenceConfig(**{**settings, "logging_steps": 250}, lora_dtype=dtype),
        train_dataset=Dataset.from_list(pairs(24, longest=4)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=lora(),
        quantization_config=nf4(),
    )
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora_A" in n}
    assert {p.dtype for p in before.values()} == {getattr(torch, dtype)}
    trainer.train()
    changed = [(dict(trainer.model.named_parameters())[n] != p).flatten() for n, p in before.items()]
    return torch.cat(changed).float().mean().item()


@pytest.mark.slow
def test_float32_weights_move_where_bfloat16_weights_stay(tiny_model, tmp_path):
    assert moved("float32", tiny_model, tmp_path) > 0.99
    assert moved("bfloat16", tiny_model, tmp_path) < 0.5
