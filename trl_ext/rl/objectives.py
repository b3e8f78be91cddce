"""Compute the losses that PPO minimises (Schulman et al. 2017, arXiv:1707.06347): policy, value and KL, all unreduced.

Sum `policy_loss(…).losses` over tokens and add kl_coef·`kl_loss(…)`, both per completion, before dividing both by
the same number: otherwise the KL coefficient silently depends on the completions' length.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trl_ext.rl.advantages import gae
from trl_ext.rl.kl import ESTIMATORS, check, importance_weights
from trl_ext.rl.masked import apply
from trl_ext.rl.rewards import shape


class ClippedLoss(NamedTuple):
    """Per-token losses (B, C), 0 outside the mask, and where the clipped branch was taken (bool (B, C))."""

    losses: Tensor
    is_clipped: Tensor


def policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> ClippedLoss:
    """max(−ρÂ, −clip(ρ, 1 − ε, 1 + ε_high)·Â) per token, ρ = π/π_old  (Eq. 7, as a loss).

    All inputs (B, C). `old_logps` and `advantages` are those of the rollout and carry no gradient. `epsilon_high`
    defaults to `epsilon`.
    """
    logps, old_logps, advantages = (apply(x, mask) for x in (logps, old_logps.detach(), advantages.detach()))
    ratio = importance_weights(logps, old_logps)
    clipped = ratio.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    return _worse(-advantages * ratio, -advantages * clipped)


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
    return _worse(plain, 0.5 * (clipped - returns).square())


def kl_loss(
    logps: Tensor,
    ref_logps: Tensor,
    mask: Tensor,
    *,
    estimator: str = "k2",
    level: str = "sequence",
    old_logps: Tensor | None = None,
) -> Tensor:
    """The KL as a term of the loss, (B,): summed over each completion's tokens, in nats, not yet times kl_coef.

    Level `sequence` is the estimator of the summed log-ratio, `token` the sum of the tokens' estimators; `kl.bias`
    states which gradient each combination gives.

    Args:
        logps, ref_logps, mask: (B, C).
        old_logps: (B, C), of the policy that sampled the completions, for rollouts of an older policy. Each term is
            weighted by π/π_old without gradient: of the whole completion at sequence level (the gradient stays that of
            fresh samples), of the token at token level (the states stay those of π_old).

    Raises:
        ValueError: The estimator or level is unknown.
    """
    check(estimator, "loss", level)
    weights, _ = kl_weights(logps, logps if old_logps is None else old_logps, mask, level=level)
    logps, ref_logps = (apply(x, mask) for x in (logps, ref_logps))
    if level == "sequence":
        logps, ref_logps = (x.sum(-1, keepdim=True) for x in (logps, ref_logps))
    return (weights * ESTIMATORS[estimator](logps, ref_logps)).sum(-1)


def kl_weights(logps: Tensor, old_logps: Tensor, mask: Tensor, *, level: str) -> tuple[Tensor, Tensor]:
    """The weights of `kl_loss` for rollouts of an older policy, without gradient, and where they apply (bool).

    At level `sequence`, π/π_old of each completion, (B, 1); completions without valid tokens have no weight. At level
    `token`, π/π_old of each token, (B, C). Weights far above 1 mean that a few samples dominate the gradient.

    Args:
        logps, old_logps, mask: (B, C).
    """
    logps, old_logps, weighs = apply(logps.detach(), mask), apply(old_logps.detach(), mask), mask.bool()
    if level == "sequence":
        logps, old_logps = (x.sum(-1, keepdim=True) for x in (logps, old_logps))
        weighs = weighs.any(-1, keepdim=True)
    return importance_weights(logps, old_logps), weighs


def kl_surrogate(
    logps: Tensor, ref_logps: Tensor, mask: Tensor, *, estimator: str, placement: str, level: str
) -> Tensor:
    """The term that a KL adds to the loss on fresh samples, with coefficient 1, (B,); only its gradient is meaningful.

    For a KL in the loss it is `kl_loss`. For a KL in the reward it is the policy loss whose advantages are minus the KL of
    the remaining tokens (γ = λ = 1, no critic). `kl.bias` states the expected gradient of each combination.

    Args:
        logps, ref_logps, mask: (B, C).
    """
    if placement == "loss":
        return kl_loss(logps, ref_logps, mask, estimator=estimator, level=level)
    nothing = logps.new_zeros(logps.shape[0])
    rewards = shape(nothing, logps, ref_logps, mask, kl_coef=1.0, estimator=estimator, level=level)
    advantages, _ = gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=1.0)
    return policy_loss(logps, logps.detach(), advantages, mask).losses.sum(-1)


def _worse(plain: Tensor, clipped: Tensor) -> ClippedLoss:
    """The larger of two losses, element by element."""
    is_clipped = clipped > plain
    return ClippedLoss(torch.where(is_clipped, clipped, plain), is_clipped)
