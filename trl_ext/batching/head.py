"""Select the hidden states that reach TRL's fused LM head, and the size of its tiles on a CPU.

Without Triton, TRL's head projects every position, in tiles of 4,096 tokens.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from trl.kernels import chunked_logprob

TILE = 128
"""Tokens of a tile on a CPU. With 49,152 entries in the vocabulary, 762 tokens took 4.4 s and 0.13 GiB instead of 11.9 s and
0.77 GiB, as a tile's intermediate results stay in the cache.
"""


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


@contextlib.contextmanager
def small_tiles(device: torch.device) -> Iterator[None]:
    """Context in which TRL's fused LM head computes tiles of `TILE` tokens on a CPU, forward or backward.

    TRL reads the size of a tile in each of its passes. It does not change the values, since every token is scored alone.
    """
    if device.type != "cpu":
        yield
        return
    before, chunked_logprob.TOKEN_CHUNK_SIZE = chunked_logprob.TOKEN_CHUNK_SIZE, TILE
    try:
        yield
    finally:
        chunked_logprob.TOKEN_CHUNK_SIZE = before
