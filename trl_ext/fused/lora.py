"""Add a LoRA into the output of its linear layer by one matrix product.

PEFT computes y + (x Aᵀ Bᵀ)·s by a product, a multiplication and an addition, on a 4-bit layer also a copy of y. Each of them
reads or writes a tensor as large as y. Here y ← y + s·(x Aᵀ) Bᵀ is one product (`addmm`) in the memory of y.

Layers of PEFT 0.21 change their class to a subclass, and change it back. PEFT's own forward runs whenever the LoRA is not the
plain one: several adapters, none, merged ones, a variant such as DoRA, a bias in B, dtypes that need a cast, hooks, or arguments
besides the input.
"""

from collections.abc import Iterator
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit as Base4bit
from peft.tuners.lora.bnb import Linear4bit
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn


class AddLowRank(torch.autograd.Function):
    """y ← y + s·h Bᵀ in the memory of y, for y (…, n), h (…, r), B (n, r) of one dtype.

    The layer that computed y must not need it for its own backward pass, which holds for linear layers. Autograd sees y and
    the result as two tensors: declared as an in-place operation on a view, it would copy the gradient. The two share their
    version counter, so a layer that did store y raises an error in its backward pass.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, h: Tensor, b: Tensor, scaling: float) -> Tensor:
        ctx.save_for_backward(h, b)
        ctx.scaling = scaling
        result = y.detach()
        result.view(-1, result.shape[-1]).addmm_(h.reshape(-1, h.shape[-1]), b.t(), alpha=scaling)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        h, b = ctx.saved_tensors
        _, needs_h, needs_b, _ = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_h = rows.mm(b).mul_(ctx.scaling).view(h.shape) if needs_h else None
        of_b = rows.t().mm(h.reshape(-1, h.shape[-1])).mul_(ctx.scaling) if needs_b else None
        return gradient, of_h, of_b, None


class _Fused:
    """Mixin before a LoRA layer of PEFT."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs:
            return super().forward(x, *args, **kwargs)
        if self._disable_adapters and not self.merged_adapters:  # the reference
            return self.base_layer(x)
        adapter = plain_adapter(self)
        if adapter is None or not _needs_no_cast(self, adapter, x):
            return super().forward(x)
        y = self.base_layer(x)
        dropout = self.lora_dropout[adapter]
        h = self.lora_A[adapter](dropout(x) if dropout.training and type(dropout) is not nn.Identity else x)
        # Not through autocast, whose cache would keep a cast that was made without a gradient.
        b = self.lora_B[adapter].weight.to(h.dtype)
        if y.dtype == h.dtype and y.is_contiguous():
            return AddLowRank.apply(y, h, b, self.scaling[adapter])
        return (y + nn.functional.linear(h, b) * self.scaling[adapter]).to(y.dtype)


class FusedLinear(_Fused, Linear):
    """PEFT's LoRA on `nn.Linear`."""


class FusedLinear4bit(_Fused, Linear4bit):
    """PEFT's LoRA on a 4-bit layer of bitsandbytes."""


FUSED = {Linear: FusedLinear, Linear4bit: FusedLinear4bit}
PLAIN = {fused: plain for plain, fused in FUSED.items()}
BASES = (nn.Linear, Base4bit)


def fuse(model: nn.Module) -> list[nn.Module]:
    """Change the class of every LoRA layer on a linear layer; returns these layers."""
    layers = [m for m in model.modules() if type(m) in FUSED and type(m.get_base_layer()) in BASES]
    for layer in layers:
        layer.__class__ = FUSED[type(layer)]
    return layers


def restore(model: nn.Module) -> None:
    """Change the classes back to PEFT's."""
    for layer in fused(model):
        layer.__class__ = PLAIN[type(layer)]


def fused(model: nn.Module) -> Iterator[nn.Module]:
    """The layers whose class `fuse` has changed."""
    return (module for module in model.modules() if type(module) in PLAIN)


def plain_adapter(layer: Any) -> str | None:
    """The one active adapter, if it is a plain LoRA without hooks; `None` otherwise."""
    if layer._disable_adapters or layer.merged_adapters or torch.compiler.is_compiling():
        return None
    name = layer._active_adapter
    if not isinstance(name, str):
        if len(name) != 1:
            return None
        name = name[0]
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias.get(name):
        return None
    up = layer.lora_B[name]
    is_hooked = layer.base_layer._forward_hooks or up._forward_hooks or up._forward_pre_hooks
    return None if is_hooked else name


def _needs_no_cast(layer: Any, adapter: str, x: Tensor) -> bool:
    """Whether the layer's output has the dtype of its LoRA's products, and PEFT would not round between them."""
    base = layer.base_layer
    is_4bit = type(base) is Base4bit
    if torch.is_autocast_enabled(x.device.type):
        # A 4-bit layer returns the dtype of its input. Autocast has the same one for all other products.
        return not is_4bit or x.dtype == torch.get_autocast_dtype(x.device.type)
    dtype = layer.lora_A[adapter].weight.dtype
    return x.dtype == dtype == layer.lora_B[adapter].weight.dtype and (is_4bit or base.weight.dtype == dtype)
