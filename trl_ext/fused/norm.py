"""Compute RMSNorm with nothing stored for the backward pass but its input.

y = (c + w)·x / √(mean(x²) + ε), with c = 1 in Gemma and 0 elsewhere. Classes of transformers compute it by five operations on a
float32 copy of x. Autograd stores that copy, twice as large as x in 16 bits.

On CUDA, PyTorch's kernel computes y in one pass and stores x and one number per token, if c = 0 and x and w have one dtype. The
other cases run the forward pass of the module's own class, whose result is the same to the bit, and only the backward pass is
written here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trl_ext.fused.classes import Fused, has_own_forward, is_plain_call, subclass


class KeepInput(torch.autograd.Function):
    """A forward pass that computes RMSNorm of x (…, n) with the weight w (n); stores x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, forward: Callable, eps: float, offset: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.offset = eps, offset
        return forward(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        values = x.float()
        mean_square = torch.linalg.vector_norm(values, dim=-1, keepdim=True).square_().div_(len(weight))
        inverse = mean_square.add_(ctx.eps).rsqrt_()  # r = 1 / √(mean(x²) + ε)
        of_x = of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (values * inverse).mul_(gradient).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:  # r·(g − x·r²·mean(g·x)), where g = (c + w)·∂y
            scaled = gradient * (weight.float() + ctx.offset)
            mean = (scaled * values).mean(-1, keepdim=True)
            of_x = scaled.addcmul_(values, mean.mul_(inverse).mul_(inverse), value=-1).mul_(inverse).to(x.dtype)
        return of_x, of_weight, None, None, None


def has_kernel(x: Tensor, weight: Tensor, offset: float) -> bool:
    """Whether PyTorch computes this norm in one kernel."""
    return x.is_cuda and offset == 0 and x.dtype == weight.dtype


def kernel(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """PyTorch's kernel. It is on autocast's list of operations in float32, but computes in float32 for itself."""
    with torch.autocast(x.device.type, enabled=False):
        return nn.functional.rms_norm(x, weight.shape, weight, eps)


class FusedNorm(Fused):
    """Mixin before a class that computes RMSNorm."""

    offset: float

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not is_plain_call(args, kwargs):
            return super().forward(x, *args, **kwargs)
        if has_kernel(x, self.weight, self.offset):
            return kernel(x, self.weight, _eps(self))
        return KeepInput.apply(x, self.weight, super().forward, _eps(self), self.offset)


def fuse(model: nn.Module) -> list[nn.Module]:
    """Change the class of every module that computes RMSNorm; returns these modules."""
    offsets: dict[type, float | None] = {}
    changed = []
    for module in [module for module in model.modules() if _may_be_norm(module)]:
        plain = type(module)
        if plain not in offsets:
            offsets[plain] = _found_offset(module)
        if offsets[plain] is not None:
            module.__class__ = subclass(FusedNorm, plain, offset=offsets[plain])
            changed.append(module)
    return changed


def offset_of(module: nn.Module) -> float | None:
    """c of the formula above; `None` if the module cannot be fused."""
    return _found_offset(module) if _may_be_norm(module) else None


def _found_offset(module: nn.Module) -> float | None:
    """c, found by running the module on a few numbers; `None` if it computes something else."""
    random = torch.Generator().manual_seed(0)
    width = len(module.weight)
    weight = torch.randn(width, generator=random)
    x = torch.randn(3, width, generator=random) * torch.tensor(
        [[1.0], [1e-2], [1e-3]]
    )  # the last is of the size of √ε
    try:
        with torch.no_grad():
            found = functional_call(module, {"weight": weight}, (x,))
    except Exception:  # a kernel for another device, or more arguments
        return None
    normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + _eps(module))

    def is_result(offset: float) -> bool:
        return found.dtype == x.dtype and torch.allclose(found, (weight + offset) * normed, rtol=1e-5, atol=1e-6)

    return next((offset for offset in (0.0, 1.0) if is_result(offset)), None)


def _may_be_norm(module: nn.Module) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    return (
        "rmsnorm" in type(module).__name__.lower()
        and not isinstance(module, Fused)
        and has_own_forward(module)
        and len(tensors) == 1
        and tensors[0] is getattr(module, "weight", None)
        and tensors[0].ndim == 1
        and isinstance(_eps(module), float)
    )


def _eps(module: Any) -> float | None:
    return getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
