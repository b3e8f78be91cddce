"""Keep adapter weights in float32, whatever dtype the base computes in.

TRL casts the adapter of a quantised model to bfloat16. A bfloat16 number has 8 significant bits, so an update below
about 1/256 of a weight is rounded away: at a learning rate of 5e-6 fewer than one in twenty entries of LoRA A ever
change, and the run ends with a fraction of the margin. Float32 copies cost 2 bytes more per adapter weight.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import is_peft_model
from peft.utils import ModulesToSaveWrapper
from torch import nn


def has_adapter(model: Any) -> bool:
    """Whether `model`, which may still be a path, is a `PeftModel`."""
    return isinstance(model, nn.Module) and is_peft_model(model)


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    """Copy the trained weights of a model that is already a `PeftModel`, before a constructor rounds them."""
    if not has_adapter(model):
        return {}
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def restore(model: nn.Module, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Cast the trained adapter weights to `dtype`, from the unrounded copy where there is one.

    Without the copy, an adapter that training continues from would differ from its own frozen reference by the
    rounding, and the loss at the first step would not be the known one. Fresh adapters need no copy: their A is
    random anyway and their B is zero.
    """
    if not has_adapter(model):
        return
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = weights.get(name, parameter.data).to(device=parameter.device, dtype=dtype)
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper) and not weights:
            for copy in module.modules_to_save.values():
                copy.load_state_dict(module.original_module.state_dict())


@contextlib.contextmanager
def saved_alone(model: nn.Module, *adapters: str) -> Iterator[None]:
    """Inside, `model.save_pretrained` saves only these adapters; transformers' trainer, which calls it, has no option for it.

    That plain PEFT loads the saved files is tested in `tests/trainers/preference/test_references.py`.
    """
    model.save_pretrained = functools.partial(model.save_pretrained, selected_adapters=list(adapters))
    try:
        yield
    finally:
        del model.save_pretrained
