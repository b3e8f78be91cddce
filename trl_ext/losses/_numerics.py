"""Pieces several losses share, written so that values and gradients stay finite in float32."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bounded_exponent(exponent: Tensor) -> Tensor:
    """`exponent` cut where exp() would leave the range of its dtype; no gradient flows beyond the cut.

    The bounds for the 16- and 32-bit types are those of TRL 1.16's alpha-divergence. Far below overflow, they
    leave room for what the exponential is multiplied with afterwards.
    """
    return exponent.clamp(max={torch.float16: 11.0, torch.float64: 600.0}.get(exponent.dtype, 80.0))


def mean_logps(logps: Tensor, lens: Tensor) -> Tensor:
    """Per-token mean (B,) of values summed over `lens` tokens; 0 for an empty completion."""
    return logps / lens.clamp(min=1)


def smoothed_logistic(margin: Tensor, label_smoothing: float) -> Tensor:
    """−(1−ε) log σ(margin) − ε log σ(−margin): cross-entropy against a preference that holds with 1 − ε."""
    losses = -logsigmoid(margin)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * logsigmoid(-margin)
    return losses
