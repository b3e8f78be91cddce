"""Compute a gated MLP, down(silu(gate(x))·up(x)), with only the two projections stored for the backward pass of the product.

Autograd stores silu(gate(x)), too, a tensor as large as a projection. Here the backward pass computes it again. Liger's kernel,
if it is installed, does the same in one pass on CUDA.
"""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from trl_ext.fused.classes import Fused, has_own_forward, is_plain_call, subclass

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


class SiluProduct(torch.autograd.Function):
    """silu(gate)·up for tensors of one shape and dtype; stores these two. Results are those of separate operations to the bit."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_up = silu(gate).mul_(gradient)
        of_gate = gradient * up
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_gate, of_up


class FusedMLP(Fused):
    """Mixin before the class of a gated MLP."""

    product = staticmethod(SiluProduct.apply)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not is_plain_call(args, kwargs) or _activation_is_hooked(self):
            return super().forward(x, *args, **kwargs)
        gate, up = self.gate_proj(x), self.up_proj(x)
        is_plain = gate.dtype == up.dtype and gate.shape == up.shape
        return self.down_proj(self.product(gate, up) if is_plain else silu(gate) * up)


class LigerMLP(FusedMLP):
    """With Liger's kernel, whose backward pass writes into the memory of the two projections."""

    @staticmethod
    def product(gate: Tensor, up: Tensor) -> Tensor:
        return liger().apply(gate, up)


@cache
def liger() -> Any:
    """Liger's function of two tensors, or `None` if it is not installed or cannot be imported."""
    try:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction
    except Exception:  # Triton raises many kinds of errors on a machine that it does not support
        return None
    return LigerSiLUMulFunction


def fuse(model: nn.Module, mixin: type[FusedMLP] = FusedMLP) -> list[nn.Module]:
    """Change the class of every gated MLP; returns these modules."""
    known: dict[type, bool] = {}
    changed = []
    for module in [module for module in model.modules() if _may_be_mlp(module)]:
        plain = type(module)
        if plain not in known:
            known[plain] = _is_gated(module)
        if known[plain]:
            module.__class__ = subclass(mixin, plain)
            changed.append(module)
    return changed


def fuse_with_liger(model: nn.Module) -> list[nn.Module]:
    """As `fuse`, with Liger's kernel."""
    return fuse(model, LigerMLP)


def can_fuse(module: nn.Module) -> bool:
    """Whether a module is a gated MLP that `fuse` would change."""
    return _may_be_mlp(module) and _is_gated(module)


def _is_gated(module: nn.Module) -> bool:
    """Whether a module computes down(silu(gate(x))·up(x)), found by running a copy with small projections."""
    random = torch.Generator().manual_seed(0)
    width, inner = 6, 5
    x = torch.randn(2, 3, width, generator=random)
    small = {}
    for name in PROJECTIONS:
        sizes = (inner, width) if name == "down_proj" else (width, inner)
        small[name] = nn.utils.skip_init(nn.Linear, *sizes, device="cpu")  # leaves the global random numbers alone
        for parameter in small[name].parameters():
            parameter.data = torch.randn(parameter.shape, generator=random)
    probe = copy.copy(module)
    probe._modules = {**module._modules, **small}
    try:
        with torch.no_grad():
            found = probe(x)
            expected = small["down_proj"](silu(small["gate_proj"](x)) * small["up_proj"](x))
            return torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    except Exception:  # of another number of arguments or shape
        return False


def _may_be_mlp(module: nn.Module) -> bool:
    others = [child for name, child in module.named_children() if name not in PROJECTIONS]
    return (
        all(isinstance(getattr(module, name, None), nn.Module) for name in PROJECTIONS)
        and not isinstance(module, Fused)
        and has_own_forward(module)
        and not module._parameters
        and not module._buffers
        and all(has_own_forward(other) and not list(other.parameters()) for other in others)
    )


def _activation_is_hooked(module: Any) -> bool:
    """Whether a module besides the projections has a hook, which would not be called."""
    for name, child in module._modules.items():
        if name not in PROJECTIONS and (child._forward_hooks or child._forward_pre_hooks or child._backward_hooks):
            return True
    return False
