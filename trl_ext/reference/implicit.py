"""Run the reference policy without a second model: the base of the policy, with its adapter off or exchanged."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn

from trl_ext.reference import switching
from trl_ext.reference.modules import evaluating

FROZEN_COPY = "ref"  # TRL's name for the frozen copy of an adapter; `sync_ref_model` updates it


@contextmanager
def no_grad_eval(model: nn.Module) -> Iterator[None]:
    """Context of evaluation mode without gradients. The previous mode is restored afterwards.

    In evaluation mode transformers does not use gradient checkpointing, even if it is enabled.
    """
    with evaluating(model), torch.no_grad():
        yield


@contextmanager
def implicit_reference(model: PeftModel) -> Iterator[None]:
    """Context in which `model` is the reference policy: the base without adapter, or with the frozen adapter if it has one.

    Afterwards the same parameters require gradients as before.
    """
    has_copy = FROZEN_COPY in model.peft_config
    with no_grad_eval(model), switching.adapter(model, FROZEN_COPY) if has_copy else switching.adapter_off(model):
        yield
