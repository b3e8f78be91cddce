"""Multiply tokens that are sorted by expert with the 4-bit weights of the experts.

The weight is dequantised in the forward pass, freed, and dequantised again in the backward pass. PyTorch's own product with a
dequantised weight would keep it until then: 1.1 GiB for each layer of Qwen3-30B-A3B.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.moe import _grouped_mm

from trl_ext.experts.storage import Packed


class GroupedProduct(torch.autograd.Function):
    """y = x_e W_e for each expert e and its rows x_e, with x (S, in), W (E, in, out) in 4 bits, and y (S, out).

    Stores no tensor but the 4-bit weight itself: W is frozen, so the gradient needs no x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, data: Tensor, state: Any, ends: Tensor, is_transposed: bool) -> Tensor:
        ctx.save_for_backward(data, ends)
        ctx.state, ctx.is_transposed, ctx.dtype = state, is_transposed, x.dtype
        weight = Packed(data, state).dequantised()
        return _grouped_mm(x, weight if is_transposed else weight.mT, ends)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        data, ends = ctx.saved_tensors
        weight = Packed(data, ctx.state).dequantised()
        return _grouped_mm(gradient, weight.mT if ctx.is_transposed else weight, ends).to(ctx.dtype), *[None] * 4


def grouped(x: Tensor, weight: Packed, ends: Tensor, *, is_transposed: bool) -> Tensor:
    """The rows of each expert times its weight, (S, out), in the dtype of the dequantised weight.

    Args:
        x: Rows sorted by expert, (S, in).
        weight: (E, out, in), or (E, in, out) if `is_transposed`.
        ends: Where the rows of each expert end, (E,) int32.
        is_transposed: Whether the inputs come before the outputs in the weight.
    """
    return GroupedProduct.apply(x.to(weight.state.dtype), weight.data, weight.state, ends, is_transposed)
