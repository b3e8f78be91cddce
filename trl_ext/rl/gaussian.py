"""Compute the KL of isotropic Gaussian policies in closed form, and estimate it from samples by k1, k2 and k3.

The derivation behind k1, k2 and k3 also holds for diffusion models. There an action is a denoising step, drawn from
N(μ_θ(x_t, t), σ_t²·I): policy and reference are Gaussians whose means a network computes, and an episode is the chain of steps
(DDPO, arXiv:2305.13301; DPOK, arXiv:2305.16381). The KL of two such chains is the expected sum of the KL of their steps, as the KL
of completions is the expected sum over tokens.

For a step the KL has a closed form, unlike that of completions:

    D = k·(ln(σ₂/σ₁) + σ₁²/(2σ₂²) − ½) + ‖μ₁ − μ₂‖²/(2σ₂²)

and with σ₁ = σ₂ only the distance of the means is left. So no estimator is needed to train such a model, and the closed form shows
what the estimators give: d = log π(x) − log ref(x) of samples x of π has mean D, and as a loss only ½d² has the gradient of D,
(μ₁ − μ₂)/σ₂². The language model's case is the same, with sums over tokens in place of integrals.

Shapes: means and samples (…, k), deviations a number or (…), results (…), in nats. Index 1 is the policy, 2 the reference.
"""

import torch
from torch import Tensor

from trl_ext.rl.kl import ESTIMATORS


def kl(mean: Tensor, deviation: Tensor | float, ref_mean: Tensor, ref_deviation: Tensor | float) -> Tensor:
    """D of N(mean, deviation²·I) from N(ref_mean, ref_deviation²·I), (…), differentiable.

    Args:
        mean, ref_mean: (…, k).
        deviation, ref_deviation: A number or (…), greater than 0.
    """
    deviation, ref_deviation = _as_tensors(mean, deviation, ref_deviation)
    ratio = deviation / ref_deviation
    spread = mean.size(-1) * (0.5 * ratio.square() - 0.5 - ratio.log())
    return spread + (mean - ref_mean).square().sum(-1) / (2 * ref_deviation.square())


def kl_gradient(mean: Tensor, ref_mean: Tensor, ref_deviation: Tensor | float) -> Tensor:
    """∂D/∂mean = (mean − ref_mean)/ref_deviation², (…, k); it does not depend on the policy's deviation.

    Args:
        mean, ref_mean: (…, k).
        ref_deviation: A number or (…), greater than 0.
    """
    (ref_deviation,) = _as_tensors(mean, ref_deviation)
    return (mean - ref_mean) / ref_deviation.square().unsqueeze(-1)


def log_ratio(
    samples: Tensor, mean: Tensor, deviation: Tensor | float, ref_mean: Tensor, ref_deviation: Tensor | float
) -> Tensor:
    """d = log N(mean, deviation²·I)(x) − log N(ref_mean, ref_deviation²·I)(x) of samples x, (…), differentiable.

    Args:
        samples: (…, k).
        mean, deviation, ref_mean, ref_deviation: As for `kl`.
    """
    deviation, ref_deviation = _as_tensors(mean, deviation, ref_deviation)
    # Subtracted in each dimension, where the squares are small, and then added up.
    ours = ((samples - mean) / deviation.unsqueeze(-1)).square()
    refs = ((samples - ref_mean) / ref_deviation.unsqueeze(-1)).square()
    return 0.5 * (refs - ours).sum(-1) + mean.size(-1) * (ref_deviation / deviation).log()


def estimate(
    estimator: str,
    samples: Tensor,
    mean: Tensor,
    deviation: Tensor | float,
    ref_mean: Tensor,
    ref_deviation: Tensor | float,
) -> Tensor:
    """An estimator of D from samples of the policy, one value (…) per sample, differentiable in both policies.

    In the loss, with samples that carry no gradient, the expected gradient in `mean` is 0 for k1, that of D for k2 and `k3+`, and
    that of the forward KL, (mean − ref_mean)/deviation² for the mean, for k3.

    Args:
        estimator: A key of `trl_ext.rl.kl.ESTIMATORS`.
        samples: (…, k), of N(mean, deviation²·I).
        mean, deviation, ref_mean, ref_deviation: As for `kl`.

    Raises:
        ValueError: The estimator is unknown.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"There is no KL estimator {estimator!r}: choose one of {', '.join(ESTIMATORS)}.")
    d = log_ratio(samples, mean, deviation, ref_mean, ref_deviation)
    return ESTIMATORS[estimator](d, torch.zeros_like(d))


def _as_tensors(like: Tensor, *deviations: Tensor | float) -> tuple[Tensor, ...]:
    return tuple(torch.as_tensor(deviation, dtype=like.dtype, device=like.device) for deviation in deviations)
