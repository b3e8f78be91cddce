"""Correct for completions that were sampled from other weights than those that are trained: truncated importance weights.

Inference engines and merged weights compute the policy with other rounding than the training path. The policy gradient on
their samples is that of the policy if each term is weighted by π_train/π_sample. The weights are bounded, so that a few
samples cannot dominate (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"). The
modes are those of TRL's GRPO trainer (`vllm_importance_sampling_mode`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trl_ext.rl import masked
from trl_ext.rl.kl import importance_weights

MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


class SamplingRatio(NamedTuple):
    """Weights (B, C), 1 outside the mask, and where a bound changed them (bool (B, C), false outside the mask)."""

    weights: Tensor
    is_bounded: Tensor


def sampling_ratio(
    logps: Tensor,
    sampling_logps: Tensor,
    mask: Tensor,
    *,
    mode: str = "token_truncate",
    clip_max: float | None = 3.0,
    clip_min: float | None = None,
) -> SamplingRatio:
    """The weights min(π_train/π_sample, clip_max) of a rollout, without gradient.

    With one weight per completion the expected gradient is that of samples of π_train, wherever no bound applies; the variance
    of the weights grows with the length. With one weight per token the variance is low, and the expectation is exact for a
    single token only: prefixes are still distributed as under π_sample. For differences as small as rounding both are 1.

    Args:
        logps, sampling_logps, mask: (B, C); log-probabilities of the sampled tokens under the weights that are trained and
            under those that sampled. A NaN among the latter is a token whose probability is not known; its ratio is 1.
        mode: `token_…` for one ratio per token, `sequence_…` for one per completion, the product of those of its tokens;
            `…_truncate` moves ratios to the bounds, `…_mask` sets those outside the bounds to 0.
        clip_max, clip_min: Bounds; `None` for none.

    Raises:
        ValueError: The mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"The mode is {mode!r}. Choose from {', '.join(MODES)}.")
    level, _, bounds = mode.partition("_")
    difference = masked.apply(logps.detach() - sampling_logps.detach(), mask).nan_to_num(nan=0.0)
    if level == "sequence":
        difference = difference.sum(-1, keepdim=True).expand_as(difference)
    ratio = importance_weights(difference, torch.zeros_like(difference))
    bounded = ratio.clamp(min=clip_min, max=clip_max) if (clip_min, clip_max) != (None, None) else ratio
    is_bounded = (bounded != ratio) & mask.bool()
    if bounds == "mask":
        bounded = ratio.masked_fill(bounded != ratio, 0.0)
    return SamplingRatio(torch.where(mask.bool(), bounded, 1.0), is_bounded)
