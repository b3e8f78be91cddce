"""The reference policy that costs no second model: the very same base, its adapter switched off or exchanged."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn
from trl.trainer.utils import use_adapter

FROZEN_COPY = "ref"  # TRL's name for the frozen copy of an adapter; reference refreshes move it


@contextmanager
def no_grad_eval(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, the previous mode restored afterwards.

    Evaluation mode also keeps gradient checkpointing out of the pass: transformers checkpoints only in training
    mode, whichever layers it was enabled for.
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
    """Inside, `model` computes the reference policy: the base alone, or with a frozen adapter where it has one.

    PEFT leaves adapters frozen that were inactive meanwhile, so the trainable set is recorded and put back.
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
    """Whether the adapter starts as the identity: every LoRA B zero, or equal to its frozen copy at whatever rank.

    Only then is the loss at the first step known in advance. Initialisations such as PiSSA, or a continued
    adapter whose copy was rounded, start elsewhere.
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
    """Whether `larger` is `weight` itself, or with zeros around it that raise its rank."""
    inside = larger[tuple(map(slice, weight.shape))]
    is_same = inside.dtype == weight.dtype and torch.equal(inside, weight)
    return is_same and bool(larger.count_nonzero() == weight.count_nonzero())
