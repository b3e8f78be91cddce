"""Compute the clipped loss of the critic."""

import torch
from torch import Tensor

from trl_ext.rl.masked import apply
from trl_ext.rl.objectives._clipped import ClippedLoss, worse


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, epsilon: float | None = 0.2
) -> ClippedLoss:
    """½·max((V − R)², (V_old + clip(V − V_old, ±ε) − R)²) per token: the clipped value loss of OpenAI's baselines.

    All inputs (B, C); `old_values` and `returns` are those of the rollout. `epsilon=None` disables clipping.
    """
    values, old_values, returns = (apply(x, mask) for x in (values, old_values.detach(), returns.detach()))
    plain = 0.5 * (values - returns).square()
    if epsilon is None:
        return ClippedLoss(plain, torch.zeros_like(mask, dtype=torch.bool))
    clipped = old_values + (values - old_values).clamp(-epsilon, epsilon)
    return worse(plain, 0.5 * (clipped - returns).square())
