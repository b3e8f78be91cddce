"""The proof accepts the families that are right and rejects wrong masks and models it does not know."""

import random

import pytest
import torch
from transformers import AutoConfig

from tests.batching.helpers import FAMILIES, alone, build, configuration, family, in_one_row, trees
from tests.batching.test_kernels import documented_varlen
from trl_ext.batching import attention, kernels, proof
from trl_ext.batching.packed import Tree, pack

TREE = trees()[0]


def prove(model, switch=True, wrong=False):
    """The outcome of the proof on `model`, optionally unswitched or with a mask that leaks."""
    expected = alone(model, [TREE]).sum(dim=1)
    if switch:
        attention.switch(model)

    def score(row):
        if wrong:
            row.layout = attention.broken(row.layout)
        return in_one_row(model, row).sum(dim=1)

    return proof.prove(score, expected.repeat(2), pack([TREE, TREE]), list(map(len, TREE.completions)), torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_the_families_that_are_right_are_accepted(name):
    model = family(name).eval()
    assert proof.known_to_be_wrong(model.config) is None
    reason, measured = prove(model)
    assert reason is None, reason
    assert "log-probabilities of 2 completions differ by" in measured


@torch.no_grad()
def test_a_mask_that_is_ignored_or_leaks_is_rejected():
    """A model that was never switched sees a causal row: prompts and branches leak into each other."""
    assert prove(family("llama").eval(), switch=False).reason == "it builds its attention mask itself"
    assert "disagree" in prove(family("llama").eval(), wrong=True).reason


WRONG = {
    "qwen3_next": "linear_attention",
    "qwen3_5_text": "linear_attention",
    "falcon_h1": "hybrid",
    "granitemoehybrid": "linear_attention",
    "recurrent_gemma": "linear_attention",
    "bamba": "linear_attention",
    "jamba": "linear_attention",
    "nemotron_h": "linear_attention",
    "mamba": "linear_attention",
    "mamba2": "linear_attention",
    "deepseek_v32": "indexed_attention",
    "bloom": "bloom",
    "mpt": "mpt",
    "falcon": "falcon",
    "gpt_oss": "gpt_oss",
    "gemma2": "soft-caps",
    "vaultgemma": "soft-caps",
}


@pytest.mark.parametrize("model_type", WRONG)
def test_families_known_to_be_wrong_are_recognised_from_their_configuration(model_type):
    reason = proof.known_to_be_wrong(AutoConfig.for_model(model_type))
    # Before transformers 5.23 two of them named their layers otherwise, or not at all.
    earlier = {"recurrent_gemma": "outside attention", "deepseek_v32": "sparse_attention"}
    assert WRONG[model_type] in reason or earlier.get(model_type, WRONG[model_type]) in reason


def test_convolutions_between_tokens_are_recognised():
    assert "conv" in proof.known_to_be_wrong(configuration("lfm2", layer_types=["conv", "full_attention"]))


@torch.no_grad()
@pytest.mark.parametrize(
    ("model_type", "changes", "word"),
    [
        ("gemma2", {"head_dim": 16, "sliding_window": 6}, "softcap"),
        ("gpt_oss", {"head_dim": 16, "sliding_window": 6, "num_local_experts": 4}, "s_aux"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "disagree"),
        ("falcon_h1", {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128}, "disagree"),
        ("doge", {}, "changes its attention mask itself"),  # works on its own masks
    ],
)
def test_they_would_also_be_found_out_by_the_proof_itself(model_type, changes, word):
    model = build(configuration(model_type, use_cache=False, **changes)).eval()
    assert word in prove(model).reason


@torch.no_grad()
def test_a_deep_model_is_accepted_in_bfloat16_with_another_kernel(monkeypatch):
    """Its layers make so much of a rounding that a gradient taken through all of them differs by a tenth."""
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", documented_varlen)
    torch.manual_seed(0)
    rng = random.Random(0)
    prompt, *sides = ([rng.randrange(3, 97) for _ in range(count)] for count in (60, 90, 120))
    model = build(configuration("llama", num_hidden_layers=32, initializer_range=0.05)).bfloat16().eval()
    tree = Tree(prompt, sides)
    expected = torch.cat([alone(model, [Tree(prompt, [side])]).sum(dim=1) for side in sides])
    attention.switch(model, kernels.VARLEN)

    def score(row):
        return in_one_row(model, row).sum(dim=1)

    row = pack([tree, tree])
    outcome = proof.prove(score, expected.repeat(2), row, list(map(len, sides)), torch.bfloat16)
    assert outcome.reason is None, outcome.reason
    outcome = proof.prove_gradient(score, row, torch.device("cpu"), outcome)
    assert outcome.reason is None, outcome.reason
