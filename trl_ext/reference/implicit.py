"""Run the reference policy without a second model: the base of the policy, with its adapter off or exchanged."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn
from trl.trainer.utils import use_adapter

FROZEN_COPY = "ref"  # TRL's name for the frozen copy of an adapter; `sync_ref_model` updates it


@contextmanager
def no_grad_eval(model: nn.Module) -> Iterator[None]:
    """Context of evaluation mode without gradients. The previous mode is restored afterwards.

    In evaluation mode transformers does not use gradient checkpointing, even if it is enabled.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


@contextmanager
def implicit_reference(model: PeftModel) -> Iterator[None]:
    """Context in which `model` is the reference policy: the base without adapter, or with the frozen adapter if it has one.

    PEFT freezes adapters that were inactive, so the trainable parameters are recorded and restored.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    name = FROZEN_COPY if FROZEN_COPY in model.peft_config else None
    try:
        with no_grad_eval(model), use_adapter(model, name):
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def policy_is_reference(model: PeftModel) -> bool:
    """Whether policy and reference are equal: every LoRA B is zero, or the adapter equals its frozen copy of any rank.

    Only then is the loss of the first step known in advance. It is not with initialisations such as PiSSA, or with a
    continued adapter whose copy was rounded.
    """
    copied = FROZEN_COPY in model.peft_config
    parameters = dict(model.named_parameters())
    found = False
    for name, parameter in parameters.items():
        if copied and ".default." in name:
            found = True
            if not _is_padded(parameters[name.replace(".default.", f".{FROZEN_COPY}.")], parameter):
                return False
        elif not copied and ("lora_B" in name or "lora_embedding_B" in name) and ".default" in name:
            found = True
            if parameter.any():
                return False
    return found


def _is_padded(larger: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `larger` equals `weight`, padded with zeros to a larger rank."""
    inside = larger[tuple(map(slice, weight.shape))]
    is_same = inside.dtype == weight.dtype and torch.equal(inside, weight)
    return is_same and bool(larger.count_nonzero() == weight.count_nonzero())
