"""Add NEFTune's noise to embeddings, scaled by the length of each sequence (Jain et al. 2023, arXiv:2310.05914).

The noise of a token is uniform in ±α/√(L·d), with L the tokens of its sequence and d the size of an embedding. Its standard
deviation is α/√(3·L·d). transformers takes the width of the batch for L, so that noise would shrink with the length of a packed row
and with padding.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.batching.packed import Layout

_LENGTHS: ContextVar[Callable[[], Tensor] | None] = ContextVar("lengths", default=None)


@contextlib.contextmanager
def noisy(embeddings: nn.Module, alpha: float | None) -> Iterator[None]:
    """Context in which embeddings have noise in training mode; none in evaluation mode, as for the reference.

    Args:
        embeddings: Returns (S, T, d).
        alpha: NEFTune's α; without noise if it is `None` or 0.
    """
    if not alpha:
        yield
        return
    handle = embeddings.register_forward_hook(partial(_add, alpha))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def of_lengths(lengths: Callable[[], Tensor]) -> Iterator[None]:
    """Context of a forward pass over sequences of known lengths.

    Args:
        lengths: Returns the length of the sequence of each token, in a shape that expands to (S, T). It is called only if
            there is noise.
    """
    token = _LENGTHS.set(lengths)
    try:
        yield
    finally:
        _LENGTHS.reset(token)


def lengths_in(layout: Layout) -> Tensor:
    """Length of the sequence of each token of a packed row, (1, T): tokens of the prompt and of the completion.

    The tokens of a shared prompt belong to several sequences and are drawn once. Theirs is the harmonic mean of the
    lengths, so that the variance of the noise is the mean of the variances it has in these sequences.
    """
    lengths = torch.empty(len(layout.positions))
    sharing: dict[tuple[int, int], list[int]] = {}
    for start, stop, prefix in layout.segments:
        length = stop - start + (prefix[1] - prefix[0] if prefix else 0)
        lengths[start:stop] = length
        if prefix:
            sharing.setdefault(prefix, []).append(length)
    for (start, stop), found in sharing.items():
        lengths[start:stop] = len(found) / sum(1 / length for length in found)
    return lengths[None].to(layout.positions.device)


def _add(alpha: float, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    if not module.training:
        return output
    lengths = _LENGTHS.get()
    # Outside of rows, in a forward pass of the user's own, every sequence is as long as the batch.
    known = torch.tensor(output.size(1), device=output.device).expand(1, 1) if lengths is None else lengths()
    bound = alpha / (known * output.size(-1)).sqrt()
    return output + torch.empty_like(output).uniform_(-1, 1) * bound.unsqueeze(-1).to(output.dtype)
