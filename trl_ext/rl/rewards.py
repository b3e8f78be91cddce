"""Compute rewards per token: the score of the completion, minus its KL if that is placed in the reward."""

import torch
from torch import Tensor

from trl_ext.rl.kl import ESTIMATORS, check, sequence
from trl_ext.rl.masked import apply, is_last


def shape(
    scores: Tensor,
    logps: Tensor,
    ref_logps: Tensor,
    mask: Tensor,
    kl_coef: float = 0.05,
    estimator: str = "k1",
    level: str = "token",
) -> Tensor:
    """Rewards (B, C): −kl_coef·kl on each token, the score on the last valid one; 0 outside the mask, detached.

    Level `sequence` puts the estimator of the summed log-ratio, −kl_coef·k(Σd), on the last valid token instead.
    As in Ziegler et al. (arXiv:1909.08593, §2.2) and Ouyang et al. (arXiv:2203.02155, Eq. 2), whose estimator is k1.

    Args:
        scores: (B,), one per completion.
        logps, ref_logps: (B, C), of the policy that sampled the completions and of the reference, at the same
            temperature.
        mask: (B, C), 1 on completion tokens, the end token included.
        kl_coef: Reward per nat; 0 if the KL is placed in the loss.
        estimator: `k1`, `k2`, `k3` or `k3+` (in the reward the same as `k3`): see `kl.bias`.
        level: `token` or `sequence`.

    Raises:
        ValueError: The estimator or level is unknown.
    """
    check(estimator, "reward", level)
    logps, ref_logps, at_end = logps.detach(), ref_logps.detach(), is_last(mask)
    scores = scores.detach().to(logps.dtype)
    if level == "sequence":
        scores = scores - kl_coef * sequence(estimator, logps, ref_logps, mask)
        return torch.where(at_end, scores.unsqueeze(-1), 0)
    kl = apply(ESTIMATORS[estimator](logps, ref_logps), mask)
    return torch.where(at_end, scores.unsqueeze(-1), 0) - kl_coef * kl


def penalise_missing_eos(scores: Tensor, is_ended: Tensor, penalty: float) -> Tensor:
    """Scores (B,), minus `penalty` for completions without an end token (`is_ended`, bool (B,), is false)."""
    return torch.where(is_ended, scores, scores - penalty)
