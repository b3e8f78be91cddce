"""A prompt of several completions runs through the model once, whatever transformers calls the argument that takes a cache."""

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from trl_ext.trainers.rollout.sampling_logps import recorded

IDS = torch.tensor([[0, 0, 9, 10, 11]] * 3 + [[20, 21, 22, 23, 24]] * 3)  # 0 pads on the left
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}


def generated(model, **inputs):
    """Completions, and the shapes of `input_ids` of all forward passes."""
    config = GenerationConfig(do_sample=True, max_new_tokens=4, min_new_tokens=4, pad_token_id=0)
    shapes, forward = (
        [],
        model.register_forward_pre_hook(
            lambda module, args, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
        ),
    )
    torch.manual_seed(1)
    with torch.no_grad():
        sequences = model.generate(**inputs, generation_config=config)
    forward.remove()
    return sequences, shapes


def test_prompts_run_once_and_completions_are_those_of_plain_generate(model):
    policy = AutoModelForCausalLM.from_pretrained(model).eval()
    plain, per_completion = generated(policy, **INPUTS)
    with recorded(policy, temperature=1.0):
        shared, once = generated(policy, **INPUTS)
    assert torch.equal(shared, plain)
    assert per_completion == [(6, 5)] + 3 * [(6, 1)]
    assert once == [(2, 4)] + 4 * [(6, 1)]


def test_different_prompts_run_as_generate_runs_them(model):
    policy = AutoModelForCausalLM.from_pretrained(model).eval()
    with recorded(policy, temperature=1.0):
        _, shapes = generated(policy, input_ids=IDS[2:4], attention_mask=INPUTS["attention_mask"][2:4])
    assert shapes == [(2, 5)] + 3 * [(2, 1)]
