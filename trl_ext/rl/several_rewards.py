"""Add up the rewards of several sources after normalising each of them (GDPO, Liu et al. 2026, arXiv:2601.05242)."""

import torch
from torch import Tensor

EPSILON = 1e-4
"""Added to the deviation, as in TRL."""


def normalised_sums(rewards: Tensor, weights: Tensor, size: int) -> Tensor:
    """Σ_k w_k·(r_k − mean r_k)/(std r_k + 1e-4) of each completion, (B,); NaN where no source applied.

    Mean and deviation (with n − 1 in the denominator) are those of a source over the prompt's completions to which it
    applied. A source that applied to one completion of a prompt counts 0. So a source with large numbers weighs as much as
    one with small numbers, and the mean over a prompt is 0.

    Args:
        rewards: (B over all processes, K sources), the completions of a prompt one after the other; NaN where a source does
            not apply.
        weights: (K,).
        size: Completions per prompt.
    """
    grouped = rewards.view(-1, size, rewards.size(1))
    applies = ~grouped.isnan()
    counts = applies.sum(1, keepdim=True)
    centred = grouped - grouped.nanmean(1, keepdim=True)
    variance = centred.square().nansum(1, keepdim=True) / (counts - 1).clamp(min=1)
    normalised = torch.where(applies & (counts > 1), centred / (variance.sqrt() + EPSILON), 0)
    sums = (normalised * weights.to(rewards.device)).sum(2).view(-1)
    return sums.masked_fill(rewards.isnan().all(1), torch.nan)
