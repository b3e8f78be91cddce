"""Change the class of modules to a subclass with another forward pass, and change it back."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import nn


class Fused:
    """Mixin before a module's class; `plain` is that class."""

    plain: type[nn.Module]


@cache
def subclass(mixin: type[Fused], plain: type[nn.Module], **attributes: Any) -> type[nn.Module]:
    """The subclass of a mixin and a module's class, under the class's name: it is shown in a model's description."""
    named = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "plain": plain}
    return type(plain.__name__, (mixin, plain), named | attributes)


def restore(modules: Iterable[nn.Module]) -> None:
    """Change the classes back."""
    for module in modules:
        if isinstance(module, Fused):
            module.__class__ = module.plain


def has_own_forward(module: nn.Module) -> bool:
    """Whether the forward pass of a module is that of its class.

    Liger (`use_liger_kernel`) and accelerate's hooks replace it in the object, and `torch.compile` the call.
    """
    replaced = vars(module)
    return "forward" not in replaced and replaced.get("_compiled_call_impl") is None


def is_plain_call(args: tuple, kwargs: dict) -> bool:
    """Whether a forward pass was given the input alone, outside `torch.compile`, which fuses operations itself."""
    return not (args or kwargs or torch.compiler.is_compiling())
