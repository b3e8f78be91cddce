"""Count the tokens and matrix-product operations of a step.

A weight of a frozen layer takes 2 operations per token forward, 2 backward (only the gradient of its input), 2 more if the
layer is recomputed, and 2 in each pass without gradient: 8 with a reference and all layers recomputed, 6 with a reference and
no layer recomputed. The LM head computes completion tokens only. Attention scores, adapters, the head's own recomputation and
everything else than matrix products are not counted, so the share of the card's rate is a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from trl_ext.planner.shape import Shape
from trl_ext.trainers.common import activation_memory, lora


@dataclass
class Tally:
    """Numbers of tokens computed by a model, padding included.

    Attributes:
        with_gradient, without_gradient: Tokens of forward passes with and without gradient.
        recomputed: Tokens with gradient, times the share of layers that are recomputed in the backward pass.
        head_with_gradient, head_without_gradient: Tokens computed by the LM head.
        longest: Maximum tokens of one forward pass with gradient.
    """

    with_gradient: int = 0
    without_gradient: int = 0
    recomputed: float = 0.0
    head_with_gradient: int = 0
    head_without_gradient: int = 0
    longest: int = 0


def flop(shape: Shape, tally: Tally) -> float:
    """Operations of the layers' matrices and of the LM head over the tokens of a tally."""
    layers = 2 * tally.with_gradient + tally.recomputed + tally.without_gradient
    head = 2 * tally.head_with_gradient + tally.head_without_gradient
    return 2.0 * (shape.active * layers + shape.vocabulary * shape.hidden * head)


@contextmanager
def counting(model: Any, tally: Tally) -> Iterator[None]:
    """Inside, forward passes of `model` are counted.

    Args:
        model: With or without an adapter.
        tally: Receives the counts.
    """
    base = model.get_base_model() if lora.has_adapter(model) else model
    layers = activation_memory.layers_of(base)

    def backbone(module: Any, args: tuple, kwargs: dict) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        count = ids.numel() if ids is not None else kwargs["inputs_embeds"].shape[:2].numel()
        if not torch.is_grad_enabled():
            tally.without_gradient += count
            return
        again = sum(layer.gradient_checkpointing and layer.training for layer in layers)
        tally.with_gradient += count
        tally.recomputed += count * again / len(layers)
        tally.longest = max(tally.longest, count)

    def head(module: Any, args: tuple, kwargs: dict) -> None:
        labels = kwargs.get("shift_labels")
        if labels is None:
            return
        if torch.is_grad_enabled():
            tally.head_with_gradient += labels.numel()
        else:
            tally.head_without_gradient += labels.numel()

    handles = [
        base.base_model.register_forward_pre_hook(backbone, with_kwargs=True),
        base.register_forward_pre_hook(head, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
