"""Compute the losses of the policy per token: the clipped surrogate of PPO, and those that replace its clipping.

All inputs are (B, C); advantages may be (B,), one per completion. `old_logps` and `advantages` are those of the rollout and carry no gradient. ρ is π/π_old at one of three
levels:

- `token`: of the token.
- `sequence`: exp of the mean log-ratio of the completion's tokens, the same for all of them (GSPO, arXiv:2507.18071).
- `sequence_sum`: exp of the summed log-ratio, the ratio of whole completions (TRL's RLOOTrainer). A loss that is differentiated
  through ρ is divided evenly among the completion's tokens, so that their sum is the loss of the completion.

On fresh samples the three have the same gradient wherever the advantage is the same for all tokens of a completion.
"""

import math

import torch
from torch import Tensor

from trl_ext.rl.kl import importance_weights
from trl_ext.rl.masked import apply
from trl_ext.rl.objectives._clipped import ClippedLoss, worse

LEVELS = ("token", "sequence", "sequence_sum")

LARGEST_LOG_RATIO = 20.0
"""Limit of log-ratios in VESPO, as in TRL."""
SMALLEST_WEIGHT = 1e-8
"""Limit of the completion's weight in VESPO, as in TRL."""


def policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    level: str = "token",
) -> ClippedLoss:
    """max(−ρÂ, −clip(ρ, 1 − ε, 1 + ε_high)·Â) per token  (Schulman et al. 2017, arXiv:1707.06347, Eq. 7, as a loss).

    Args:
        logps, old_logps, advantages, mask: (B, C).
        epsilon: ε. Below 1 − ε a ratio gives no gradient if its advantage is negative.
        epsilon_high: Its counterpart above 1, for positive advantages; `epsilon` by default. A larger one is the clip-higher of
            DAPO (arXiv:2503.14476).
        delta: Two-sided clipping: limits ρ of the unclipped term, so that a token with a negative advantage whose ratio is above
            δ gives no gradient (INTELLECT-2, arXiv:2505.07291). Must be above 1 + `epsilon_high`.
        level: Of ρ: `token`, `sequence` or `sequence_sum`.

    Raises:
        ValueError: The level is unknown.
    """
    advantages = _on_tokens(advantages, mask)
    ratio, share = _ratio(logps, old_logps, mask, level)
    clipped = ratio.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    is_above = torch.zeros_like(ratio, dtype=torch.bool) if delta is None else ratio > delta
    limited = ratio if delta is None else ratio.clamp(max=delta)
    losses, is_clipped = worse(-advantages * limited, -advantages * clipped)
    return ClippedLoss(losses * share, is_clipped | is_above & (advantages < 0))


def cispo(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    epsilon_high: float = 5.0,
    level: str = "token",
) -> ClippedLoss:
    """−stop_gradient(min(ρ, ε_high))·Â·log π per token: CISPO, clipped importance-sampling weights (arXiv:2506.13585).

    Every token keeps a gradient; only its weight is limited. `is_clipped` is true where it was. As in TRL, `epsilon_high` is the
    limit itself, not its distance from 1, and there is no lower one.

    Args:
        logps, old_logps, advantages, mask: (B, C).
        epsilon_high: Largest weight, greater than 0. ScaleRL (arXiv:2510.13786) recommends 5.
        level: Of ρ: `token`, `sequence` or `sequence_sum`.

    Raises:
        ValueError: The level is unknown.
    """
    advantages = _on_tokens(advantages, mask)
    ratio, _ = _ratio(logps.detach(), old_logps, mask, level)
    losses = -ratio.clamp(max=epsilon_high) * advantages * apply(logps, mask)
    return ClippedLoss(losses, (ratio > epsilon_high) & mask.bool())


def sapo(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    temperature_pos: float = 1.0,
    temperature_neg: float = 1.05,
    level: str = "token",
) -> ClippedLoss:
    """−(4/τ)·σ(τ(ρ − 1))·Â per token: SAPO, Soft Adaptive Policy Optimization (arXiv:2511.20347).

    A gate with slope 1 at ρ = 1 that flattens away from it replaces clipping, so `is_clipped` is false everywhere. The
    value at ρ = 1 is −2Â/τ.

    Args:
        logps, old_logps, advantages, mask: (B, C).
        temperature_pos: τ of tokens with a positive advantage; a larger τ damps ratios far from 1 more.
        temperature_neg: τ of the others.
        level: Of ρ: `token`, `sequence` or `sequence_sum`.

    Raises:
        ValueError: The level is unknown.
    """
    advantages = _on_tokens(advantages, mask)
    ratio, share = _ratio(logps, old_logps, mask, level)
    temperatures = _by_sign(advantages > 0, temperature_pos, temperature_neg, ratio)
    gate = torch.sigmoid(temperatures * (ratio - 1)) * 4 / temperatures
    return _unclipped(-gate * advantages * share)


def vespo(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    k_pos: float = 2.0,
    lambda_pos: float = 3.0,
    k_neg: float = 3.0,
    lambda_neg: float = 2.0,
) -> ClippedLoss:
    """−stop_gradient(φ(w))·Â·log π per token, φ(w) = e^λ·w^k·e^(−λw): VESPO (arXiv:2602.10693).

    VESPO is Variational Sequence-Level Soft Policy Optimization. w is π/π_old of the whole completion, and φ(1) = 1. Nothing is
    clipped, so `is_clipped` is false everywhere. As in TRL, log-ratios are limited to ±20 and w to at least 1e-8.

    Args:
        logps, old_logps, advantages, mask: (B, C).
        k_pos, lambda_pos: k and λ of tokens whose advantage is not negative.
        k_neg, lambda_neg: Those of the others.
    """
    advantages = _on_tokens(advantages, mask)
    log_ratio = apply(logps.detach() - old_logps.detach(), mask).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    log_w = log_ratio.sum(-1, keepdim=True).clamp(math.log(SMALLEST_WEIGHT), LARGEST_LOG_RATIO)
    k = _by_sign(advantages >= 0, k_pos, k_neg, log_w)
    rate = _by_sign(advantages >= 0, lambda_pos, lambda_neg, log_w)
    phi = (rate + k * log_w - rate * log_w.exp()).exp()
    return _unclipped(-phi * advantages * apply(logps, mask))


SURROGATES = {"clipped": policy_loss, "cispo": cispo, "sapo": sapo, "vespo": vespo}


def _ratio(logps: Tensor, old_logps: Tensor, mask: Tensor, level: str) -> tuple[Tensor, Tensor | float]:
    """ρ (B, C) at a level, and the share of the completion's loss that each token has."""
    if level not in LEVELS:
        raise ValueError(f"There is no importance sampling level {level!r}: choose one of {', '.join(LEVELS)}.")
    logps, old_logps = apply(logps, mask), apply(old_logps.detach(), mask)
    if level == "token":
        return importance_weights(logps, old_logps), 1.0
    lengths = mask.bool().sum(-1, keepdim=True).clamp(min=1).to(logps.dtype)
    logps, old_logps = logps.sum(-1, keepdim=True), old_logps.sum(-1, keepdim=True)
    if level == "sequence":
        return importance_weights(logps / lengths, old_logps / lengths).expand(mask.shape), 1.0
    return importance_weights(logps, old_logps).expand(mask.shape), 1 / lengths


def _on_tokens(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages (B, C), 0 outside the mask and detached, of advantages (B, C) or (B,)."""
    return apply((advantages.unsqueeze(-1) if advantages.dim() == 1 else advantages).detach(), mask)


def _by_sign(is_positive: Tensor, positive: float, negative: float, like: Tensor) -> Tensor:
    """One number or the other, in the precision of a tensor."""
    return torch.where(is_positive, like.new_tensor(positive), like.new_tensor(negative))


def _unclipped(losses: Tensor) -> ClippedLoss:
    return ClippedLoss(losses, torch.zeros_like(losses, dtype=torch.bool))
