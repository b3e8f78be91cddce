"""Tiny models of many families, and their log-probabilities by three routes: alone, in a padded batch, in a row."""

import copy
import random
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from trl_ext.batching.packed import PackedRow, Tree
from trl_ext.trainers.common import forward

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
MIXED = ["sliding_attention", "full_attention"]
GPT_2 = {"vocab_size": 97, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
NO_DROPOUT = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
SCALED = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "original_max_position_embeddings": 4}

# Name → model type and what differs from `SIZES`.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama 4, chunks of 6": (
        "llama4_text",
        {"head_dim": 16, "num_local_experts": 4, "intermediate_size_mlp": 128, "attention_chunk_size": 6},
    ),
    "mistral, window 7": ("mistral", {"sliding_window": 7}),
    "ministral, window 6 and full": ("ministral", {"head_dim": 16, "sliding_window": 6, "layer_types": MIXED}),
    "ministral 3, queries scaled by position": (
        "ministral3",
        {"head_dim": 16, "rope_parameters": {**SCALED, "llama_4_scaling_beta": 0.5}},
    ),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "qwen 2, window 6 and full": ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen 3": ("qwen3", {"head_dim": 16}),
    "qwen 3 moe": (
        "qwen3_moe",
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma 2, final logits soft-capped": (
        "gemma2",
        {"head_dim": 16, "sliding_window": 6, "attn_logit_softcapping": None, "final_logit_softcapping": 5.0},
    ),
    "gemma 3, window 6 and full": ("gemma3_text", {"head_dim": 16, "sliding_window": 6, "layer_types": MIXED}),
    "gemma 4, keys shared between layers": (
        "gemma4_text",
        {
            "num_hidden_layers": 4,
            "layer_types": MIXED * 2,
            "num_kv_shared_layers": 2,
            "head_dim": 16,
            "global_head_dim": 16,
            "sliding_window": 6,
            "vocab_size_per_layer_input": 97,
            "hidden_size_per_layer_input": 16,
        },
    ),
    "olmo 2, tied": ("olmo2", {"tie_word_embeddings": True}),
    "olmo 3, window 6 and full": ("olmo3", {"sliding_window": 6, "layer_types": MIXED}),
    "phi 3": ("phi3", {}),
    "smollm 3, one layer without positions": ("smollm3", {"no_rope_layers": [1, 0]}),
    "granite": ("granite", {"logits_scaling": 2.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5}),
    "granite 4, all attention": (
        "granitemoehybrid",
        {"layer_types": ["attention"] * 2, "shared_intermediate_size": 32},
    ),
    "cohere": ("cohere", {"logit_scale": 0.5}),
    "cohere 2, window 6 and full": ("cohere2", {"sliding_window": 6, "layer_types": MIXED}),
    "deepseek 3": (
        "deepseek_v3",
        {**LATENT, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 2}
        | {"topk_group": 1, "first_k_dense_replace": 1},
    ),
    "gpt-2": ("gpt2", {**GPT_2, **NO_DROPOUT}),
    "gpt-neox": ("gpt_neox", {}),
}


def configuration(model_type: str, **changes: Any) -> Any:
    return AutoConfig.for_model(model_type, **{**SIZES, **changes})


def family(name: str) -> torch.nn.Module:
    model_type, changes = FAMILIES[name]
    return build(configuration(model_type, **changes))


def build(config: Any) -> torch.nn.Module:
    """A random model in training mode with TRL's fused LM head, its logits large enough that a wrong mask shows."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    if config.model_type == "llama4_text":
        model.base_model_prefix = "model"  # without it, TRL's head takes the whole model for the backbone
    add_fused_lm_head(model)
    return model.train()


def trees() -> list[Tree]:
    """Three prompts with two completions each: an ordinary one, one of a single token, and a long one."""
    rng = random.Random(0)
    tokens = lambda n: [rng.randrange(4, 97) for _ in range(n)]  # noqa: E731
    return [
        Tree(tokens(9), [tokens(5), tokens(8)]),
        Tree(tokens(1), [tokens(3), tokens(4)]),
        Tree(tokens(12), [tokens(6), tokens(1)]),
    ]


def alone(model: torch.nn.Module, given: list[Tree]) -> torch.Tensor:
    """Log-probabilities of completion tokens from plain logits, one forward per sequence: (completions, longest)."""
    rows = []
    for tree in given:
        for completion in tree.completions:
            ids = torch.tensor([tree.prompt + completion])
            rows.append(_of_tokens(model(ids).logits[0], ids[0], len(tree.prompt)))
    return pad_sequence(rows, batch_first=True)


def in_a_padded_batch(model: torch.nn.Module, given: list[Tree]) -> torch.Tensor:
    """The same from one right-padded batch of all sequences."""
    sequences = [torch.tensor(tree.prompt + completion) for tree in given for completion in tree.completions]
    starts = [len(tree.prompt) for tree in given for _ in tree.completions]
    mask = pad_sequence([torch.ones_like(sequence) for sequence in sequences], batch_first=True)
    logits = model(pad_sequence(sequences, batch_first=True), attention_mask=mask).logits
    rows = [_of_tokens(logits[i], sequence, starts[i]) for i, sequence in enumerate(sequences)]
    return pad_sequence(rows, batch_first=True)


def _of_tokens(logits: torch.Tensor, ids: torch.Tensor, start: int) -> torch.Tensor:
    logps = logits[: len(ids) - 1].log_softmax(-1).gather(1, ids[1:, None]).squeeze(1)
    return logps[start - 1 :]


def in_one_row(model: torch.nn.Module, row: PackedRow) -> torch.Tensor:
    """The same from a packed row, as the trainers compute it."""
    return forward.run(model, {"packed": row}).per_token_logps


def gradient(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
