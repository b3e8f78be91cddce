"""Compute the GPU memory of comparing next-token distributions with those of a reference (`trl_ext.batching.token_kl`), in bytes.

The last hidden states of the reference are kept beside those of the policy. The logits of both are computed tile by tile in the
forward pass, and again in the backward pass. Each tile has float32 tensors of its logits: both log-probabilities, the
probabilities of the reference, the difference, and in the forward pass the product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trl_ext.planner.memory import Row, Storage
    from trl_ext.planner.shape import Shape

TILE_LOGITS = 2**25
"""Logits of a tile, as in `trl_ext.batching.token_kl`."""
FORWARD, BACKWARD = 5, 4
"""Float32 tensors of a tile's logits alive at the peak of its forward pass, and at that of its backward pass."""


def parts(shape: Shape, row: Row, storage: Storage) -> dict[str, float]:
    """Bytes alive while the distributions are compared, besides the activations of the policy, by kind."""
    return {
        "last states of the reference": states(shape, row),
        "tile of logits of both models": tile(shape, row, storage),
    }


def states(shape: Shape, row: Row) -> float:
    """Bytes of the last hidden states of the scored tokens, in one model."""
    return row.activation * row.completion_share * row.tokens * shape.hidden


def tile(shape: Shape, row: Row, storage: Storage) -> float:
    """Bytes at the peak of a tile: in its forward pass, or in its backward pass with the gradients of the tiles before it."""
    scored = row.completion_share * row.tokens
    logits = 4 * min(scored, max(1, TILE_LOGITS // shape.vocabulary)) * shape.vocabulary
    weight = shape.vocabulary * shape.hidden
    cast = 2 * weight if storage.weight == 4 else 0
    found = [FORWARD * logits, BACKWARD * logits + cast + states(shape, row)]
    if (
        shape.adapter is None
    ):  # the LM head's gradient: the sum, and that of this tile, first in the dtype of the product
        found.append(2 * storage.weight * weight + 2 * cast)
    return max(found)
