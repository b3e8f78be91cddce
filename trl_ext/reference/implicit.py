"""Run the reference policy without a second model: the base of the policy, with its adapter off or exchanged."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn

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

    Switching adapters changes which parameters are trainable, so this is recorded and restored.
    """
    from trl.trainer.utils import use_adapter  # takes 2 s, and sampling from the policy alone does not need it

    trainable = [(p, p.requires_grad) for p in model.parameters()]
    name = FROZEN_COPY if FROZEN_COPY in model.peft_config else None
    try:
        with no_grad_eval(model), use_adapter(model, name):
            yield
    finally:
        for parameter, is_trained in trainable:
            parameter.requires_grad_(is_trained)
