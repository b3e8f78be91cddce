"""The merged copy is what PEFT's own merging gives, and it leaves the base and everything that is trained as they were."""

import copy

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests.trainers.helpers import lora, nf4, randomise_lora_b
from tests.trainers.ppo.helpers import build, config
from trl_ext.planner import counting, memory
from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.trainers.rollout import merged_copy, vllm_weights
from trl_ext.trainers.rollout.merged_copy import CannotMergeError, MergedCopy

IDS = torch.arange(10, 34).view(2, 12)


def policy_of(path, peft_config=None, **given):
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(path, **given), peft_config or lora())
    randomise_lora_b(policy)
    return policy.eval()


def state(model):
    return {name: tensor.detach().clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def check_unchanged(model, before):
    after = state(model)
    assert after.keys() == before.keys()
    assert [name for name in after if not torch.equal(after[name], before[name])] == []


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def test_logits_are_those_of_pefts_own_merge(model):
    policy = policy_of(model, lora(target_modules="all-linear", use_rslora=True))
    before = state(policy)
    made = MergedCopy(policy, torch.float32)
    merged = copy.deepcopy(policy).merge_and_unload()
    assert torch.equal(logits(made.model), logits(merged))
    assert made.model.state_dict().keys() == merged.state_dict().keys()
    check_unchanged(policy, before)


def test_a_4_bit_base_is_dequantised_and_stays_4_bit(model):
    policy = policy_of(model, quantization_config=nf4())
    keep_exact_cpu_kernels(policy)  # as trainers do: bitsandbytes multiplies in bfloat16 on some CPUs
    before = state(policy)
    made = MergedCopy(policy, torch.float32)
    torch.testing.assert_close(logits(made.model), logits(policy), rtol=1e-4, atol=1e-4)
    assert not hasattr(made.model.config, "quantization_config") and not getattr(
        made.model, "is_loaded_in_4bit", False
    )
    check_unchanged(policy, before)


def test_a_refresh_writes_the_new_adapter_into_the_same_memory(model):
    policy = policy_of(model)
    made = MergedCopy(policy, torch.float32)
    places = {name: parameter.data_ptr() for name, parameter in made.model.named_parameters()}
    for _ in range(3):  # from the base each time, so that rounding does not accumulate
        for name, parameter in policy.named_parameters():
            if ".default." in name:
                parameter.data.add_(0.01)
        assert not torch.equal(logits(made.model), logits(copy.deepcopy(policy).merge_and_unload()))
        made.refresh()
        assert torch.equal(logits(made.model), logits(copy.deepcopy(policy).merge_and_unload()))
    assert {name: parameter.data_ptr() for name, parameter in made.model.named_parameters()} == places


def test_other_adapters_are_not_merged(model):
    policy = policy_of(model)
    expected = logits(copy.deepcopy(policy).merge_and_unload())
    for name in ("critic", "reward", "ref"):
        policy.add_adapter(name, lora(target_modules=["q_proj", "o_proj"]))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name and ".default." not in name:
            parameter.data.fill_(1.0)
    assert torch.equal(logits(MergedCopy(policy, torch.float32).model), expected)
    policy.set_adapter("critic")
    assert torch.equal(logits(MergedCopy(policy, torch.float32).model), expected)


def test_tied_embeddings_stay_tied_and_weights_without_adapter_are_those_of_the_base():
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=16))
    assert base.lm_head.weight is base.transformer.wte.weight
    policy = get_peft_model(base, lora(target_modules=["c_attn"], fan_in_fan_out=True))
    randomise_lora_b(policy)
    made = MergedCopy(policy.eval(), torch.float32)
    assert made.model.lm_head.weight is made.model.transformer.wte.weight
    assert made.model.transformer.wte.weight.data_ptr() == base.transformer.wte.weight.data_ptr()
    merged = copy.deepcopy(policy).merge_and_unload()
    ids = IDS % 50
    with torch.no_grad():
        torch.testing.assert_close(made.model(ids).logits, merged(ids).logits)
    assert made.bytes == 4 * sum(layer.attn.c_attn.weight.numel() for layer in made.model.transformer.h)


def test_embeddings_that_were_untied_stay_untied(model):
    policy = policy_of(model)
    base = policy.get_base_model()
    base.lm_head.weight = torch.nn.Parameter(torch.randn_like(base.lm_head.weight), requires_grad=False)
    made = MergedCopy(policy, torch.float32)
    assert torch.equal(made.model.lm_head.weight, base.lm_head.weight)
    torch.testing.assert_close(logits(made.model), logits(copy.deepcopy(policy).merge_and_unload()))


def test_the_planner_counts_the_copy(model):
    for quantization, targets in ((nf4(), "all-linear"), (None, "all-linear"), (nf4(), ["q_proj"])):
        policy = policy_of(model, lora(target_modules=targets), quantization_config=quantization)
        made = MergedCopy(policy, torch.float32)
        shape = counting.count(made.model.config.to_dict() | {"architectures": [type(made.model).__name__]}, 4)
        storage = memory.Storage(bits=16 if quantization is None else 4, weight=4)
        assert made.bytes == memory.merged_copy(shape, storage, weight=4)
    half = MergedCopy(policy, torch.bfloat16)
    assert half.model.dtype == torch.bfloat16 and half.bytes == memory.merged_copy(shape, storage, weight=2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "trained whole"),
        ({"trainable_token_indices": [3]}, "trained tokens"),
        ({"lora_bias": True}, "a bias"),
        ({"target_modules": ["embed_tokens"]}, "on the embeddings"),
        ({"target_modules": ["lm_head"]}, "on the embeddings or on the head"),
        ({"lora_dropout": 0.1}, "dropout is on"),
    ],
)
def test_what_is_no_plain_lora_is_not_merged(model, changes, reason):
    assert reason in merged_copy.why_not_model(policy_of(model, lora(**changes)))
    assert merged_copy.why_not_model(policy_of(model)) is None


def test_a_base_that_lacks_weights_is_not_merged(model):
    policy = policy_of(model)
    policy.get_base_model().model.layers[0].extra = torch.nn.Linear(2, 2)
    with pytest.raises(CannotMergeError, match=r"no weight model\.layers\.0\.extra"):
        MergedCopy(policy, torch.float32)
    with pytest.raises(CannotMergeError, match="no buffer"):
        policy = policy_of(model)
        del policy.get_base_model().model.rotary_emb.inv_freq
        MergedCopy(policy, torch.float32)


def test_modules_that_another_adapter_trains_whole_are_sent_as_the_base_has_them(model):
    policy = policy_of(model)
    policy.add_adapter("reward", lora(modules_to_save=["lm_head"]))
    sent = dict(vllm_weights.named_weights(policy))
    assert sent.keys() == dict(AutoModelForCausalLM.from_pretrained(model).named_parameters()).keys()


# In a trainer ---------------------------------------------------------------------------------------------------


def sampled_by(trainer, generate=None):
    """Token ids of 8 completions sampled by a trainer with a seed; by `generate` of another model if given."""
    prompts = [[5, 6, 7], [9, 10], [11, 12, 13, 14], [20]] * 2
    torch.manual_seed(17)
    if generate is None:
        return trainer._generate_single_turn(prompts, None, {})
    trainer.sampler.choice, trainer.model_wrapped = "adapter", generate
    torch.manual_seed(17)
    return trainer._generate_single_turn(prompts, None, {})


@pytest.mark.parametrize("quantization", [None, nf4()], ids=["float32 base", "NF4 base"])
def test_sampled_tokens_are_those_of_a_merged_model(model, tmp_path, quantization):
    trainer = build(model, config(tmp_path, sampling_weights="merged"), quantization_config=quantization)
    before = state(trainer.model)
    parameters = {id(parameter) for parameter in trainer.model.parameters()}
    found = sampled_by(trainer)
    check_unchanged(trainer.model, before)
    assert {id(parameter) for parameter in trainer.model.parameters()} == parameters
    assert trainer.sampler.copy is not None and len({tuple(ids) for ids in found}) > 4
    merged = AutoModelForCausalLM.from_pretrained(model)
    merged.load_state_dict(dict(vllm_weights.named_weights(trainer.model)), strict=False)
    merged.generation_config = trainer.model.generation_config
    assert sampled_by(trainer, merged.eval()) == found


def test_a_prompt_is_run_once_for_all_its_completions(model, tmp_path):
    """And what is sampled after it is what `generate` samples that runs it for each."""
    trainer = build(model, config(tmp_path, sampling_weights="merged"))
    found, seen = [], []
    for is_shared in (True, False):
        trainer.sampler._prepared([[5]], False)
        merged = trainer.sampler.copy
        if is_shared:
            handle = merged.model.embed_tokens.register_forward_hook(
                lambda module, ids, out: seen.append(ids[0].shape)
            )
        torch.manual_seed(3)
        if is_shared:
            found.append(trainer._generate_single_turn([[5, 6, 7]] * 4 + [[9, 10, 11, 12, 13]] * 4, None, {}))
            handle.remove()
        else:
            trainer.sampler.choice, trainer.model_wrapped = "adapter", merged
            found.append(trainer._generate_single_turn([[5, 6, 7]] * 4 + [[9, 10, 11, 12, 13]] * 4, None, {}))
    assert found[0] == found[1] and len({tuple(ids) for ids in found[0]}) > 4
    assert seen[0] == (2, 4), "two prompts of up to five tokens, without the last"
    assert all(shape == (8, 1) for shape in seen[1:])
