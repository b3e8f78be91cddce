"""Compute the losses that reinforcement learning minimises, all unreduced: of the policy, of the critic, and of the KL.

    clipped = objectives.policy_loss(logps, old_logps, advantages, mask)        # (B, C) per token
    kl = objectives.kl_loss(logps, ref_logps, mask, estimator="k2")             # (B,) summed over tokens
    objectives.SURROGATES["cispo"](logps, old_logps, advantages, mask, epsilon_high=5.0)

`trl_ext.rl.aggregation` averages them. Give the policy's losses, summed over each completion's tokens, and the KL the same
weights: otherwise the KL coefficient silently depends on the completions' length.
"""

from trl_ext.rl.objectives._clipped import ClippedLoss
from trl_ext.rl.objectives.divergence import kl_loss, kl_surrogate, kl_weights
from trl_ext.rl.objectives.policy import LEVELS, SURROGATES, cispo, policy_loss, sapo, vespo
from trl_ext.rl.objectives.value import value_loss

__all__ = [
    "LEVELS",
    "SURROGATES",
    "ClippedLoss",
    "cispo",
    "kl_loss",
    "kl_surrogate",
    "kl_weights",
    "policy_loss",
    "sapo",
    "value_loss",
    "vespo",
]
