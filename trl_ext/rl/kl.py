"""Estimate the Kullback-Leibler divergence of the policy from the reference from samples.

k1, k2 and k3 are Schulman's (http://joschu.net/blog/kl-approx.html), for d = log π − log π_ref of a sample from π.
They are elementwise: per token for tensors (B, C), per completion for log-probs summed to (B,). `bias` states which
gradient each gives in the reward or in the loss; Tang & Munos (arXiv:2506.09477) and Liu et al. (arXiv:2510.01555)
give the reasons.
"""

from torch import Tensor

from trl_ext.rl.controllers import AdaptiveController, FixedController
from trl_ext.rl.masked import total
from trl_ext.rl.truth_table import DEFAULT_LEVEL, LEVELS, PLACEMENTS, bias, check, is_exact, warning

__all__ = [
    "DEFAULT_LEVEL",
    "ESTIMATORS",
    "LARGEST_EXPONENT",
    "LEVELS",
    "PLACEMENTS",
    "AdaptiveController",
    "FixedController",
    "bias",
    "check",
    "importance_weighted",
    "importance_weights",
    "is_exact",
    "k1",
    "k2",
    "k3",
    "k3_plus",
    "sequence",
    "straight_through",
    "warning",
]

LARGEST_EXPONENT = 20.0
"""Above this exponent, exp() is continued by its tangent. Samples of π exceed it with a probability of exp(−20) or less,
since E_π[exp(−d)] = 1."""


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """d: unbiased, can be negative; relative standard deviation 2/μ for unit Gaussians μ apart."""
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """½d²: biased (μ²/4 of the KL for unit Gaussians μ apart), with the reverse-KL gradient when differentiated."""
    return 0.5 * (logps - ref_logps) ** 2


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """exp(−d) − 1 + d: unbiased and never negative.

    Above `LARGEST_EXPONENT` the exponential is continued by its tangent, so that value and gradient stay finite and the
    pull towards the reference does not vanish exactly where the policy is furthest below it.
    """
    exponent = ref_logps - logps
    inside = exponent.clamp(max=LARGEST_EXPONENT)
    return inside.expm1() + inside.exp() * (exponent - inside) - exponent


def straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    """The value of the first with the gradient of the second: `straight_through(k3(…), k2(…))`, for instance."""
    return value.detach() + (gradient - gradient.detach())


def k3_plus(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """The value of k3 with the gradient of k2: in the reward it is k3, in the loss it trains like k2.

    A KL that is never negative and unbiased is logged, and at sequence level the gradient is that of the reverse KL.
    """
    return straight_through(k3(logps, ref_logps), k2(logps, ref_logps))


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3, "k3+": k3_plus}


def sequence(estimator: str, logps: Tensor, ref_logps: Tensor, mask: Tensor) -> Tensor:
    """The estimator (B,) of log-probs summed over each completion: inputs (B, C) per token."""
    return ESTIMATORS[estimator](total(logps, mask), total(ref_logps, mask))


def importance_weights(logps: Tensor, old_logps: Tensor) -> Tensor:
    """π/π_old, differentiable and elementwise; above exp(`LARGEST_EXPONENT`) it is continued by the tangent."""
    exponent = logps - old_logps
    inside = exponent.clamp(max=LARGEST_EXPONENT)
    return inside.exp() * (1 + exponent - inside)


def importance_weighted(estimator: str, logps: Tensor, ref_logps: Tensor, old_logps: Tensor) -> Tensor:
    """The estimator for samples of an older policy, differentiable, elementwise.

    With w = π/π_old: w·k1, stop_gradient(w)·k2, w·k3, stop_gradient(w)·k3+. Differentiated, each has expected gradient
    ∇KL(π‖ref), whatever π_old was: k1 and k3 because they are unbiased and w carries the sampling distribution's
    dependence on π; k2 and k3+ because their own derivative already is the score-function gradient. w·k3 and
    stop_gradient(w)·k2 have the same gradient sample by sample. For completions of several tokens, pass log-probs summed to (B,).
    """
    weights = importance_weights(logps, old_logps)
    if estimator in ("k2", "k3+"):
        weights = weights.detach()
    return weights * ESTIMATORS[estimator](logps, ref_logps)
