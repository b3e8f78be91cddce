"""TRL's other ways to generate, which must leave the model as it was."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.generation.vllm_generation import VLLMGeneration

from tests.ppo.helpers import build, config
from tests.trainers.helpers import lora, nf4
from trl_ext.trainers import merged_weights, ppo_settings


def test_what_vllm_is_sent_is_what_trl_would_merge(model, tmp_path):
    trainer = build(model, config(tmp_path, max_steps=1))
    sent = {name: data.clone() for name, data in merged_weights.named_weights(trainer.model)}
    plain = AutoModelForCausalLM.from_pretrained(model)
    assert sent.keys() == {name for name, _ in plain.named_parameters()}
    generation = object.__new__(VLLMGeneration)
    generation.model = trainer.model
    generation._dist = SimpleNamespace(gather_params=lambda parameters: contextlib.nullcontext(), is_fsdp=False)
    merged = {name: data.clone() for name, data in generation._iter_named_params() if "head." not in name}
    for name in merged:
        torch.testing.assert_close(sent[name], merged[name])
    changed = {name for name, weight in plain.named_parameters() if not torch.equal(weight, sent[name])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "v_proj", "gate_proj"}


def test_a_4_bit_base_is_sent_in_full_and_stays_what_it_was(model, tmp_path):
    trainer = build(model, config(tmp_path), quantization_config=nf4())
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    sent = dict(merged_weights.named_weights(trainer.model))
    plain = dict(AutoModelForCausalLM.from_pretrained(model).named_parameters())
    assert {name: w.shape for name, w in sent.items()} == {name: w.shape for name, w in plain.items()}
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    plain_model = AutoModelForCausalLM.from_pretrained(model)
    plain_model.load_state_dict(sent, strict=False)
    ids = torch.arange(10, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain_model(ids).logits, trainer.model(ids).logits, rtol=1e-3, atol=1e-3)


def test_vllm_with_an_adapter_that_is_no_sum_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="no DoRA"):
        build(model, config(tmp_path, use_vllm=True), peft_config=lora(use_dora=True))


def test_a_cast_for_generation_is_undone(model, tmp_path):
    trainer = build(model, config(tmp_path))
    before = {name: (p.dtype, p.data_ptr()) for name, p in trainer.model.named_parameters()}
    with ppo_settings.unchanged(trainer.model):
        trainer.model.to(torch.bfloat16)
        assert next(trainer.model.parameters()).dtype == torch.bfloat16
    assert {name: (p.dtype, p.data_ptr()) for name, p in trainer.model.named_parameters()} == before
