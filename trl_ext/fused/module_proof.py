"""Test on a model, before training, that fused norms and MLPs give the results of the classes of transformers they replace.

One module of each kind is run both ways on random inputs. A weight that is all zeros, such as B of a fresh LoRA, is replaced by
random numbers, because it would hide errors.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trl_ext.fused.classes import restore
from trl_ext.fused.proof import TOKENS, compare

Autocast = Callable[[], AbstractContextManager]


def prove(modules: Iterable[nn.Module], autocast: Autocast) -> float:
    """Compare fused norms or MLPs with the forward and backward pass of their own classes.

    Args:
        modules: Modules changed by `norm.fuse` or `swiglu.fuse`. One of each kind is run.
        autocast: Gives the context of a forward pass in training.

    Returns:
        The largest relative difference.

    Raises:
        DifferentError: It is larger than rounding, or a pass fails.
    """

    def difference(module: nn.Module) -> float:
        width = _width(module)
        what = f"of {type(module).__name__} over {width:,} numbers"
        return compare(what, "transformers'", lambda: _run(module, width, autocast), _plain(module))

    one_of_each = {_kind(module): module for module in modules}
    return max(map(difference, one_of_each.values()), default=0.0)


def _kind(module: nn.Module) -> tuple:
    return type(module), *((p.shape, p.dtype, p.requires_grad) for p in module.parameters())


def _width(module: Any) -> int:
    return module.gate_proj.in_features if hasattr(module, "gate_proj") else len(module.weight)


def _run(module: nn.Module, width: int, autocast: Autocast) -> dict[str, Tensor]:
    """A module's output and its gradients for the input, (1, T, width), and for the trained weights."""
    floating = next(p for p in module.parameters() if p.is_floating_point())  # not the bytes of 4-bit weights
    random = torch.Generator(floating.device).manual_seed(0)

    def normal(shape: Iterable[int], dtype: torch.dtype) -> Tensor:
        return torch.randn(tuple(shape), generator=random, device=floating.device).to(dtype)

    trained = {}
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            value = weight.detach()
            trained[name] = value if value.any() else normal(value.shape, value.dtype) / value.shape[-1] ** 0.5
            trained[name].requires_grad_()
    with _evaluated(module), torch.enable_grad(), autocast():
        x = normal((1, TOKENS, width), _dtype_of_inputs(module, floating)).requires_grad_()
        output = functional_call(module, trained, (x,))
        gradient = normal(output.shape, output.dtype)
        gradients = torch.autograd.grad(output, (x, *trained.values()), gradient)
    names = ("gradient for the input", *(f"gradient for {name}" for name in trained))
    return {"output": output.detach()} | dict(zip(names, gradients, strict=True))


def _dtype_of_inputs(module: nn.Module, floating: nn.Parameter) -> torch.dtype:
    device = floating.device.type
    is_mixed = torch.is_autocast_enabled(device) and hasattr(module, "gate_proj")
    return torch.get_autocast_dtype(device) if is_mixed else floating.dtype


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """Without dropout."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode


@contextmanager
def _plain(module: nn.Module) -> Iterator[None]:
    changed = type(module)
    restore([module])
    try:
        yield
    finally:
        module.__class__ = changed
