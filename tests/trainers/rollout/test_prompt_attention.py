"""Attention on prompts that are kept once, against `generate` of transformers, which copies them for each completion."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from trl_ext.trainers.rollout import prompt_attention
from trl_ext.trainers.rollout.prompt_attention import SharedPromptLayer
from trl_ext.trainers.rollout.shared_prompts import run_once

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
KEPT_ONCE = ["llama", "qwen3", "smollm3", "olmo2", "granite", "phi3"]
COPIED = {
    "mistral": {"sliding_window": 4},  # its cache holds a window
    "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_oss": {"sliding_window": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
}
TWO_PROMPTS = torch.tensor([[0, 0, 9, 10, 11]] * 3 + [[20, 21, 22, 23, 24]] * 3)  # 0 pads on the left
ONE_PROMPT = TWO_PROMPTS[3:]
UNEQUAL, MIXED = TWO_PROMPTS[1:], TWO_PROMPTS[[0, 3, 1, 4, 2, 5]]


def made(kind, implementation="sdpa", **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **settings})
    return AutoModelForCausalLM.from_config(config, attn_implementation=implementation).float().eval()


def sampled(model, ids, **settings):
    """Completions, and the logits of their tokens."""
    config = GenerationConfig(
        max_new_tokens=8,
        min_new_tokens=8,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        **{"do_sample": True, **settings},
    )
    torch.manual_seed(1)
    with torch.no_grad():
        found = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), generation_config=config)
    return found.sequences, torch.stack(found.logits)


@pytest.fixture
def attended(monkeypatch):
    """How often attention read prompts that are kept once."""
    calls = []
    plain = prompt_attention._shared
    monkeypatch.setattr(prompt_attention, "_shared", lambda *args: calls.append(args) or plain(*args))
    return calls


def compare(model, ids):
    implementation = model.config._attn_implementation
    expected, logits = sampled(model, ids)
    with run_once(model):
        found, others = sampled(model, ids)
    assert torch.equal(found, expected)
    assert torch.allclose(others, logits, atol=1e-5)
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize("ids", [TWO_PROMPTS, ONE_PROMPT], ids=["two prompts, one padded", "one prompt"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KEPT_ONCE)
def test_completions_and_logits_are_those_of_copied_prompts(attended, kind, implementation, ids):
    compare(made(kind, implementation), ids)
    assert len(attended) == 2 * 8  # layers and tokens


@pytest.mark.parametrize("kind", COPIED)
def test_prompts_are_copied_for_other_caches(attended, kind):
    compare(made(kind, "eager", **COPIED[kind]), TWO_PROMPTS)
    assert not attended


@pytest.mark.parametrize("ids", [UNEQUAL, MIXED], ids=["unequal numbers of completions", "mixed prompts"])
def test_prompts_are_copied_where_completions_are_not_in_equal_groups(attended, ids):
    compare(made("llama"), ids)
    assert not attended


def test_prompts_are_copied_where_attention_is_not_plain(attended, monkeypatch):
    """Gemma 2 bounds its scores."""
    monkeypatch.setattr(SharedPromptLayer, "__init__", None)
    full = {"layer_types": ["full_attention"] * 2, "attn_logit_softcapping": 0.05}
    compare(made("gemma2", "eager", **full), TWO_PROMPTS)
    assert not attended


@pytest.mark.parametrize(
    "settings", [{"num_beams": 2, "do_sample": False}, {"num_return_sequences": 2}], ids=["beams", "sequences"]
)
def test_rows_that_generate_repeats_are_left_to_it(attended, settings):
    model = made("llama")
    expected, _ = sampled(model, ONE_PROMPT, **settings)
    with run_once(model):
        found, _ = sampled(model, ONE_PROMPT, **settings)
    assert torch.equal(found, expected)
    assert not attended


def test_a_prompt_is_in_memory_once(monkeypatch):
    kept = []
    plain = SharedPromptLayer.__init__

    def kept_and_seen(self, *args):
        plain(self, *args)
        kept.append(self)

    monkeypatch.setattr(SharedPromptLayer, "__init__", kept_and_seen)
    model = made("llama")
    with run_once(model):
        sampled(model, TWO_PROMPTS)
    for layer in kept:
        assert (
            layer.prompt_keys.shape == layer.prompt_values.shape == (2, 2, 4, 8)
        )  # the last token is run with the completions
        assert layer.keys.shape == (6, 2, 8, 8)
        assert layer.get_seq_length() == 12
        assert layer.keys.untyped_storage().nbytes() == 6 * 2 * 9 * 8 * 4
        whole, _ = layer.whole()
        assert torch.equal(whole[:, :, :4], layer.prompt_keys[[0, 0, 0, 1, 1, 1]])
        assert torch.equal(whole[:, :, 4:], layer.keys)
