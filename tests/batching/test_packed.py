"""Packed rows against one plain forward per sequence, over model families; wrong masks and wrong models are caught."""

import copy
import random

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen3Config,
)

from trl_ext.batching import attention, proof
from trl_ext.batching.packed import Tree, first_fit, pack

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "mistral, window 7": MistralConfig(**SIZES, sliding_window=7),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "gemma 3, window 6 and full": Gemma3TextConfig(
        **SIZES, head_dim=16, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
    ),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "olmo 2, tied": Olmo2Config(**SIZES, tie_word_embeddings=True),
    "phi 3": Phi3Config(**SIZES),
    "gpt-2": AutoConfig.for_model(
        "gpt2",
        vocab_size=97,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=128,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    ),
}


def trees() -> list[Tree]:
    """Three prompts with two completions each: an ordinary one, one of a single token, and a long one."""
    rng = random.Random(0)
    tokens = lambda n: [rng.randrange(4, 97) for _ in range(n)]  # noqa: E731
    return [
        Tree(tokens(9), [tokens(5), tokens(8)]),
        Tree(tokens(1), [tokens(3), tokens(4)]),
        Tree(tokens(12), [tokens(6), tokens(1)]),
    ]


def build(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    return model.train()


def one_by_one(model) -> torch.Tensor:
    """Summed log-probabilities from a plain forward of each sequence."""
    sums = []
    for tree in trees():
        for completion in tree.completions:
            ids = torch.tensor([tree.prompt + completion])
            logps = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
            sums.append(logps[len(tree.prompt) - 1 :].sum())
    return torch.stack(sums)


def in_one_row(model, row) -> torch.Tensor:
    with attention.packed(row.layout):
        logits = model(
            input_ids=row.input_ids,
            position_ids=row.position_ids,
            attention_mask=torch.ones_like(row.input_ids),
            use_cache=False,
        ).logits[0]
    scored = row.labels[0] != -100
    logps = logits[scored].log_softmax(-1).gather(1, row.labels[0][scored, None]).squeeze(1)
    return row.scatter(logps).sum(dim=1)


def gradient(model, loss) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "checkpointed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_those_of_separate_sequences(family, checkpointing):
    model = build(FAMILIES[family])
    weights = torch.tensor([1.0, -1.0, 0.5, 2.0, -0.3, 1.0])
    separate = one_by_one(model)
    expected = gradient(model, (separate * weights).sum())
    attention.switch(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    together = in_one_row(model, pack(trees()))
    assert torch.allclose(together, separate, atol=2e-5), (together - separate).abs().max()
    found = gradient(model, (together * weights).sum())
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_a_row_computes_every_prompt_once_and_no_padding():
    row = pack(trees())
    # prompts without their last token, and each completion with it: 8+6+9 + 0+4+5 + 11+7+2
    assert row.input_ids.shape == (1, 52)
    padded = sum(2 * (len(t.prompt) + max(map(len, t.completions))) for t in trees())
    assert padded == 80
    assert row.scatter(torch.ones(len(row.completion))).sum(dim=1).tolist() == [5, 8, 3, 4, 6, 1]


def test_an_ordinary_batch_is_untouched_by_the_switch():
    model = build(FAMILIES["llama"]).eval()
    ids = torch.randint(4, 97, (2, 11))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    before = model(ids, attention_mask=mask).logits
    attention.switch(model)
    assert torch.equal(model(ids, attention_mask=mask).logits, before)


def padded(model, tree: Tree) -> torch.Tensor:
    ids = [torch.tensor([tree.prompt + completion]) for completion in tree.completions]
    logps = [model(i).logits[0, :-1].log_softmax(-1).gather(1, i[0, 1:, None]).squeeze(1) for i in ids]
    return torch.stack([one[len(tree.prompt) - 1 :].sum() for one in logps])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_proof_accepts_the_families_that_are_right(family):
    model = build(FAMILIES[family]).eval()
    assert proof.known_to_be_wrong(model.config) is None
    expected = padded(model, trees()[0])
    attention.switch(model)
    reason, measured = proof.prove(lambda row: in_one_row(model, row), expected, trees()[0], torch.float32)
    assert reason is None, reason
    assert "2 completions of one prompt differ by" in measured


@torch.no_grad()
def test_the_proof_rejects_a_mask_that_is_ignored():
    """A model that was never switched sees a causal row: prompts and branches leak into each other."""
    model = build(FAMILIES["llama"]).eval()
    expected = padded(model, trees()[0])
    reason, _ = proof.prove(lambda row: in_one_row(model, row), expected, trees()[0], torch.float32)
    assert reason == "it builds its attention mask itself"
    attention.switch(model)

    def leaky(row):
        row.layout = attention.broken(row.layout)
        return in_one_row(model, row)

    reason, _ = proof.prove(leaky, expected, trees()[0], torch.float32)
    assert "disagree" in reason


@pytest.mark.parametrize(
    ("model_type", "word"),
    [
        ("qwen3_next", "linear_attention"),
        ("qwen3_5_text", "linear_attention"),
        ("bloom", "bloom"),
        ("mpt", "mpt"),
        ("falcon", "falcon"),
        ("gpt_oss", "gpt_oss"),
        ("gemma2", "gemma2"),
        ("falcon_h1", "hybrid"),
        ("granitemoehybrid", ""),
        ("recurrent_gemma", ""),
        ("bamba", ""),
        ("mamba", ""),
        ("mamba2", ""),
    ],
)
def test_families_known_to_be_wrong_are_recognised_from_their_configuration(model_type, word):
    reason = proof.known_to_be_wrong(AutoConfig.for_model(model_type))
    assert reason is not None and word in reason


@torch.no_grad()
def test_soft_capped_attention_is_refused_by_its_argument():
    from transformers import Gemma2Config

    model = build(Gemma2Config(**SIZES, head_dim=16, sliding_window=6)).eval()
    expected = padded(model, trees()[0])
    attention.switch(model)
    reason, _ = proof.prove(lambda row: in_one_row(model, row), expected, trees()[0], torch.float32)
    assert "softcap" in reason


def test_first_fit_fills_rows_and_loses_nothing():
    rng = random.Random(3)
    lengths = [rng.randint(40, 700) for _ in range(64)]
    bins = first_fit(lengths, 2048)
    assert sorted(i for b in bins for i in b) == list(range(64))
    assert all(sum(lengths[i] for i in b) <= 2048 for b in bins)
    assert len(bins) == -(-sum(lengths) // 2048)  # not one row more than the tokens need
    assert first_fit([5000, 10, 10], 2048) == [[0], [1, 2]]
