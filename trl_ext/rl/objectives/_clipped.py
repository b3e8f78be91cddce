"""Hold the output of a clipped loss."""

from typing import NamedTuple

import torch
from torch import Tensor


class ClippedLoss(NamedTuple):
    """Per-token losses (B, C), 0 outside the mask, and where clipping took the gradient or reduced it (bool (B, C))."""

    losses: Tensor
    is_clipped: Tensor


def worse(plain: Tensor, clipped: Tensor) -> ClippedLoss:
    """The larger of two losses, element by element."""
    is_clipped = clipped > plain
    return ClippedLoss(torch.where(is_clipped, clipped, plain), is_clipped)
