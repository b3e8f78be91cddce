"""Select the hidden states that reach the LM head: without Triton, TRL's head projects every position."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def head_sees(model: nn.Module, select: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Context in which only selected hidden states reach the LM head of a model patched by TRL's `add_fused_lm_head`.

    This relies on the fused head reading the backbone's `last_hidden_state` and nothing else of its shape. Losses and
    gradients are compared with TRL's in `tests/trainers/preference/test_parity_with_trl_dpo.py`.

    Args:
        model: The `transformers` model, without an adapter's wrapper.
        select: Takes hidden states (S, T, H) and returns those of N positions, (1, N, H).
    """

    def narrow(module: nn.Module, args: tuple, output: Any) -> Any:
        output.last_hidden_state = select(output.last_hidden_state)
        return output

    handle = model.base_model.register_forward_hook(narrow)
    try:
        yield
    finally:
        handle.remove()
