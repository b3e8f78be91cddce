"""Compute the KL as a term of the loss."""

import torch
from torch import Tensor

from trl_ext.rl.advantages.gae import gae
from trl_ext.rl.kl import ESTIMATORS, check, importance_weights
from trl_ext.rl.masked import apply
from trl_ext.rl.objectives.policy import policy_loss
from trl_ext.rl.rewards import shape


def kl_loss(
    logps: Tensor,
    ref_logps: Tensor,
    mask: Tensor,
    *,
    estimator: str = "k2",
    level: str = "sequence",
    old_logps: Tensor | None = None,
    sampling_ratio: Tensor | float = 1,
) -> Tensor:
    """The KL as a term of the loss, (B,): summed over each completion's tokens, in nats, not yet times kl_coef.

    Level `sequence` is the estimator of the summed log-ratio, `token` the sum of the tokens' estimators; `kl.bias`
    states which gradient each combination gives.

    Args:
        logps, ref_logps, mask: (B, C).
        old_logps: (B, C), of the policy that sampled the completions, for rollouts of an older policy. Each term is
            weighted by π/π_old without gradient: of the whole completion at sequence level (the gradient stays that of
            fresh samples), of the token at token level (the states stay those of π_old).
        sampling_ratio: Further weights, (B, 1) at sequence level and (B, C) at token level, for completions that π_old did not
            sample itself (`trl_ext.rl.sampling_ratio`).

    Raises:
        ValueError: The estimator or level is unknown.
    """
    check(estimator, "loss", level)
    weights, _ = kl_weights(logps, logps if old_logps is None else old_logps, mask, level=level)
    logps, ref_logps = (apply(x, mask) for x in (logps, ref_logps))
    if level == "sequence":
        logps, ref_logps = (x.sum(-1, keepdim=True) for x in (logps, ref_logps))
    return (sampling_ratio * weights * ESTIMATORS[estimator](logps, ref_logps)).sum(-1)


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
