"""A prompt of several completions runs through the model once, whatever transformers calls the argument that takes a cache."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from tests.trainers.helpers import lora, nf4, randomise_lora_b
from trl_ext.trainers.rollout.shared_prompts import run_once

IDS = torch.tensor([[0, 0, 9, 10, 11]] * 3 + [[20, 21, 22, 23, 24]] * 3)  # 0 pads on the left
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
POLICIES = ["full weights", "an adapter on 16 bits", "an adapter on 4 bits", "a DoRA"]


def policy_of(path, kind="full weights"):
    base = AutoModelForCausalLM.from_pretrained(path, **({"quantization_config": nf4()} if "4 bits" in kind else {}))
    if kind == POLICIES[0]:
        return base.eval()
    torch.manual_seed(0)
    policy = get_peft_model(base, lora(use_dora=kind == "a DoRA"))
    randomise_lora_b(policy)
    return policy.eval()


def generated(policy, **inputs):
    """Completions, and the shapes of `input_ids` of all forward passes."""
    config = GenerationConfig(do_sample=True, max_new_tokens=4, min_new_tokens=4, pad_token_id=0)
    shapes = []
    forward = plain_model(policy).register_forward_pre_hook(
        lambda module, args, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    torch.manual_seed(1)
    with torch.no_grad():
        sequences = policy.generate(**inputs, generation_config=config)
    forward.remove()
    return sequences, shapes


def plain_model(policy):
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy


@pytest.mark.parametrize("kind", POLICIES)
def test_prompts_run_once_and_completions_are_those_of_plain_generate(model, kind):
    policy = policy_of(model, kind)
    plain, per_completion = generated(policy, **INPUTS)
    with run_once(plain_model(policy)):
        shared, once = generated(policy, **INPUTS)
    assert torch.equal(shared, plain)
    assert per_completion == [(6, 5)] + 3 * [(6, 1)]
    assert once == [(2, 4)] + 4 * [(6, 1)]
    assert "generate" not in vars(plain_model(policy))


def test_different_prompts_run_as_generate_runs_them(model):
    policy = policy_of(model)
    with run_once(policy):
        _, shapes = generated(policy, input_ids=IDS[2:4], attention_mask=INPUTS["attention_mask"][2:4])
    assert shapes == [(2, 5)] + 3 * [(2, 1)]


@pytest.mark.parametrize("where", ["of the call", "of the model"])
def test_another_kind_of_cache_is_left_to_generate(model, where):
    policy = policy_of(model)
    static = GenerationConfig(max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
    (static if where == "of the call" else policy.generation_config).cache_implementation = "static"
    expected = policy.generate(**INPUTS, generation_config=static)
    with run_once(policy):
        assert torch.equal(policy.generate(**INPUTS, generation_config=static), expected)
