"""TRL's other ways to generate, which must leave the model as it was."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.generation.vllm_generation import VLLMGeneration

from tests.trainers.helpers import lora, nf4, relative_difference
from tests.trainers.ppo.helpers import build, config
from trl_ext.trainers.rollout import vllm_weights
from trl_ext.trainers.rollout.unchanged import unchanged


def test_what_vllm_is_sent_is_what_trl_would_merge(model, tmp_path):
    trainer = build(model, config(tmp_path, max_steps=1))
    sent = {name: data.clone() for name, data in vllm_weights.named_weights(trainer.model)}
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
    sent = dict(vllm_weights.named_weights(trainer.model))
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
    with unchanged(trainer.model):
        trainer.model.to(torch.bfloat16)
        assert next(trainer.model.parameters()).dtype == torch.bfloat16
    assert {name: (p.dtype, p.data_ptr()) for name, p in trainer.model.named_parameters()} == before


@pytest.mark.parametrize("quantization", [None, nf4()], ids=["float32 base", "NF4 base"])
def test_a_step_on_completions_of_continuous_batching(model, tmp_path, quantization):
    """Greedily, so that it has to write what `generate` writes, for the same prompts and by the same policy."""
    trainers = []
    for is_continuous in (False, True):
        args = config(
            tmp_path,
            max_steps=1,
            generation_kwargs={"do_sample": False},
            use_transformers_continuous_batching=is_continuous,
            transformers_continuous_batching_config={"num_blocks": 64, "max_batch_tokens": 64}
            if is_continuous
            else None,
        )
        with pytest.warns(UserWarning, match="not sampled from the distribution that is scored"):
            trainer = build(model, args, quantization_config=quantization)
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train()
        trained = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
        assert trained and all(".default." in n or ".critic." in n or n.startswith("value_head") for n in trained)
        trainers.append(trainer)
    plain, continuous = (written(trainer) for trainer in trainers)
    assert plain == continuous and len(plain) == 8
    gradients = [trainer.recorder.gradients[0] for trainer in trainers]
    assert relative_difference(gradients[1], gradients[0]) < 1e-5


def written(trainer) -> list[tuple]:
    """Prompts and completions of the rollout, sorted: a rollout is shuffled before it is cut."""
    return sorted(
        (tuple(prompt[on.bool()].tolist()), tuple(completion[valid.bool()].tolist()))
        for batch in trainer._buffered_inputs
        for prompt, on, completion, valid in zip(
            *(batch[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")), strict=True
        )
    )


def test_evaluation_on_completions_of_continuous_batching_stays_one(model, tmp_path):
    """TRL leaves the model in training mode after them: the loss would count as one of training, dropout would be on."""
    settings = {"num_blocks": 64, "max_batch_tokens": 64}
    continuous = {"use_transformers_continuous_batching": True, "transformers_continuous_batching_config": settings}
    trainer = build(model, config(tmp_path, per_device_eval_batch_size=8, **continuous))
    metrics = trainer.evaluate(trainer.train_dataset)
    assert {"eval_entropy", "eval_policy_loss", "eval_score"} <= metrics.keys()
    assert not trainer.model.training and trainer.update.metrics.sums["train"].means() == {}
