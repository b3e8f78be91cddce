"""Compute sums, means and variances over the tokens that a mask selects; values elsewhere, NaN included, are never read."""

from collections.abc import Callable

import torch
from torch import Tensor


def apply(values: Tensor, mask: Tensor) -> Tensor:
    """`values` with zeros where the mask is 0."""
    return torch.where(mask.bool(), values, 0)


def total(values: Tensor, mask: Tensor) -> Tensor:
    """Sums (B,) over the valid tokens of each row of (B, C)."""
    return apply(values, mask).sum(-1)


def is_last(mask: Tensor) -> Tensor:
    """Bool (B, C), true on the last valid token of each row; all false in a row without valid tokens."""
    is_valid = mask.bool()
    return is_valid & (is_valid.flip(-1).cumsum(-1).flip(-1) == 1)


def moments(values: Tensor, mask: Tensor, add_up: Callable[[Tensor], Tensor] = lambda x: x) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance (n − 1 in the denominator; 0 for a single token) over all valid tokens.

    Args:
        values, mask: (B, C).
        add_up: Sums a tensor over processes, so that all of them get the moments of the whole batch.
    """
    n, sum_ = add_up(torch.stack([mask.sum().to(values.dtype), apply(values, mask).sum()]))
    mean = sum_ / n.clamp(min=1)
    squares = add_up(apply(values - mean, mask).square().sum())
    return mean, squares / (n - 1).clamp(min=1)


def whiten(
    values: Tensor,
    mask: Tensor,
    *,
    shift_mean: bool = True,
    epsilon: float = 1e-8,
    add_up: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """(values − mean) / √(variance + epsilon) over all valid tokens of the batch, 0 elsewhere.

    Unbiased variance, as in verl and TRL's former PPO (for n tokens √(n/(n−1)) above the population's). With
    `shift_mean=False` the mean is added back, so only the scale changes. `add_up`: see `moments`.

    Dividing by the standard deviation rescales the reward, and with it a KL that is part of the reward, but not a
    KL added to the loss. In that case leave advantages unwhitened, or divide the KL coefficient by the same deviation.
    """
    mean, variance = moments(values, mask, add_up)
    whitened = (values - mean) * (variance + epsilon).rsqrt()
    return apply(whitened if shift_mean else whitened + mean, mask)
