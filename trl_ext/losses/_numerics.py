"""Compute terms that several losses share, with finite values and gradients in float32."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bounded_exponent(exponent: Tensor) -> Tensor:
    """Limit an exponent so that exp() does not overflow its dtype. There is no gradient above the limit.

    The limits for 16- and 32-bit dtypes are those of TRL 1.16's alpha-divergence. They are far below overflow, since the
    exponential is multiplied with other factors afterwards.
    """
    return exponent.clamp(max={torch.float16: 11.0, torch.float64: 600.0}.get(exponent.dtype, 80.0))


def mean_logps(logps: Tensor, lens: Tensor) -> Tensor:
    """Per-token mean (B,) of values summed over `lens` tokens; 0 for an empty completion."""
    return logps / lens.clamp(min=1)


def smoothed_logistic(margin: Tensor, label_smoothing: float) -> Tensor:
    """−(1−ε) log σ(margin) − ε log σ(−margin): cross-entropy of a preference that is correct with probability 1 − ε."""
    losses = -logsigmoid(margin)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * logsigmoid(-margin)
    return losses
