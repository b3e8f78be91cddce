"""Compute the experts of a layer from 4-bit weights: an experts implementation of transformers."""

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from trl_ext.experts import adapter
from trl_ext.experts.matmul import grouped
from trl_ext.experts.storage import in_4_bits, packed

NAME = "grouped_mm_4bit"
"""The implementation's name in transformers' table."""


def experts_forward(self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The weighted sum of the chosen experts of each token, (N, H), as by transformers' `grouped_mm`.

    Args:
        self: The experts of a layer. Without weights in 4 bits they are computed by `grouped_mm`.
        hidden_states: (N, H) for N tokens.
        top_k_index: Chosen experts, (N, k).
        top_k_weights: Their weights, (N, k).
    """
    if not in_4_bits(self):
        return grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)
    tokens, chosen = top_k_index.shape
    expert, order = top_k_index.reshape(-1).sort()  # (S,) with S = N·k
    ends = torch.searchsorted(expert, torch.arange(self.num_experts, device=expert.device), right=True).int()
    present = expert.unique_consecutive() if _reads_few(self, expert) else None
    name = "gate_up_proj" if self.has_gate else "up_proj"
    first = _linear(self, name, hidden_states[order // chosen], expert, ends, present)
    y = _linear(
        self, "down_proj", self._apply_gate(first) if self.has_gate else self.act_fn(first), expert, ends, present
    )
    if getattr(self, "has_post_expert_norm", False):  # since transformers 5.20
        y = self.post_expert_norm(y)
    y = y * top_k_weights.reshape(-1)[order, None]
    y = y[order.argsort()].view(tokens, chosen, -1).sum(1)
    return y.to(hidden_states.dtype)


def _reads_few(self: nn.Module, expert: Tensor) -> bool:
    """Whether the tokens are so few that most experts have none, as when a token is sampled for each of a few rows.

    A backward pass would keep the copies of their 4-bit weights, so all experts are dequantised where there may be one.
    """
    return not torch.is_grad_enabled() and len(expert) < self.num_experts


def _linear(
    self: nn.Module, name: str, x: Tensor, expert: Tensor, ends: Tensor, present: Tensor | None = None
) -> Tensor:
    """The rows of each expert times its weight, with the LoRA on it and its bias, (S, out).

    Args:
        present: The experts that have rows, which alone are dequantised; `None` for all.
    """
    weight = packed(self, name)
    if present is None:
        y = grouped(x, weight, ends, is_transposed=self.is_transposed)
    else:
        y = grouped(x, weight.of(present), ends[present], is_transposed=self.is_transposed)
    for factors in adapter.active(self, name):
        y = adapter.added(y, x, factors, ends, is_transposed=self.is_transposed)
    return y + getattr(self, f"{name}_bias")[expert].to(y.dtype) if self.has_bias else y


def use(model: nn.Module) -> None:
    """Let the modules of a model that have experts in 4 bits compute by this implementation."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
    for module in model.modules():
        if in_4_bits(module):
            module.config._experts_implementation = NAME
