"""Compare the whole next-token distributions of two models, tile by tile, from their last hidden states."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trl_ext.batching.head import TILE

LOGITS = 2**25
"""Logits of a tile on a GPU: 128 MiB in float32 for each of the two models and each intermediate result."""


class States(NamedTuple):
    """What the distributions of N tokens are computed from.

    Attributes:
        hidden: Last hidden states before the tokens, (N, H).
        weight, bias: Of the LM head, (V, H) and (V,) or `None`.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


def token_kl(reference: States, policy: States, config: Any) -> Tensor:
    """KL(reference ‖ policy) of each token's distribution over the vocabulary, in nats; float32 of shape (N,).

    The gradient reaches the policy alone. Only one tile of logits exists at a time; the backward pass computes it again.

    Args:
        reference, policy: The two models at the same tokens.
        config: The models' configuration; its scale and cap of the logits are those of TRL's fused LM head.
    """
    text = config.get_text_config()
    scale, cap = logit_scale(text), getattr(text, "final_logit_softcapping", None)
    size = tile_tokens(len(policy.weight), policy.hidden.device)
    tiles = [
        checkpoint(_of_tile, before, now, reference, policy, scale, cap, use_reentrant=False)
        for before, now in zip(reference.hidden.detach().split(size), policy.hidden.split(size), strict=True)
    ]
    return torch.cat(tiles)


def tile_tokens(vocabulary: int, device: torch.device) -> int:
    """Tokens whose logits exist at a time."""
    return TILE if device.type == "cpu" else max(1, LOGITS // vocabulary)


def logit_scale(text: Any) -> float:
    """The factor of a model's logits, by the names that TRL's `add_fused_lm_head` knows."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if (found := getattr(text, name, None)) is not None:
            return found
    if (found := getattr(text, "logits_scaling", None)) is not None:
        return found if text.model_type == "hyperclovax" else 1 / found
    return 1.0


def _of_tile(
    before: Tensor, now: Tensor, reference: States, policy: States, scale: float, cap: float | None
) -> Tensor:
    with torch.no_grad():
        expected = log_probs(reference._replace(hidden=before), scale, cap)
    found = log_probs(policy._replace(hidden=now), scale, cap)
    return (expected.exp() * (expected - found)).sum(dim=-1)


def log_probs(states: States, scale: float, cap: float | None) -> Tensor:
    """Log-probabilities of the whole vocabulary, float32 of shape (N, V)."""
    hidden = states.hidden.to(states.weight.dtype)
    logits = nn.functional.linear(hidden, states.weight, states.bias).float() * scale
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits.log_softmax(dim=-1)
