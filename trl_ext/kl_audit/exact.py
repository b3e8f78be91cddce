"""Audit KL estimators exactly, on a language so small that bias and variance of value and gradient are sums."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trl_ext.rl import kl, objectives
from trl_ext.rl.enumerable import Language

CELLS = list(itertools.product(kl.ESTIMATORS, kl.PLACEMENTS, kl.LEVELS))
DISTANCES = [0.02 * 1.35**i for i in range(18)]
"""Distances of the plotted policies from the reference; 1 is that of the policy in the table."""


@dataclass(frozen=True)
class Row:
    """Results of one cell, relative to the true KL or to the norm of its true gradient.

    Attributes:
        estimator, placement, level: The cell.
        value_bias, value_variance: Bias and variance of the value of one completion, in units of KL and KL².
        cosine: Cosine of the expected gradient with the true one; NaN if the gradient is zero or cannot be distinguished
            from zero. Sampled, it is a quotient of unbiased estimates of products and norms and can exceed 1.
        squared_error: Squared norm of the expected gradient's difference from the true one. Sampled, it is an unbiased
            estimate and can be negative.
        gradient_variance: Variance of one completion's gradient, summed over its components.
        *_se: Standard errors of sampled results, else 0.
    """

    estimator: str
    placement: str
    level: str
    value_bias: float
    value_variance: float
    cosine: float
    squared_error: float
    gradient_variance: float
    value_bias_se: float = 0.0
    cosine_se: float = 0.0
    squared_error_se: float = 0.0

    @property
    def cell(self) -> tuple[str, str, str]:
        return self.estimator, self.placement, self.level

    @property
    def error(self) -> float:
        """Norm of the expected gradient's difference from the true one; 0 if the estimate of its square is negative."""
        return math.sqrt(max(self.squared_error, 0.0))


@dataclass(frozen=True)
class Audit:
    """Rows of all cells, and the KL at which they were measured.

    Attributes:
        kl: KL in nats per completion.
        rows: One row per cell.
        kl_se: Standard error of the KL; 0 if exact.
        n: Number of sampled completions; `None` if exact.
        n_weights: Number of weights for which gradients were taken; `None` for all.
    """

    kl: float
    rows: list[Row]
    kl_se: float = 0.0
    n: int | None = None
    n_weights: int | None = None


def values(estimator: str, level: str, logps: Tensor, ref_logps: Tensor, mask: Tensor) -> Tensor:
    """The estimator's value for each completion, (B,): of the summed log-ratio, or summed over tokens."""
    return objectives.kl_loss(logps, ref_logps, mask, estimator=estimator, level=level)


def small_language() -> tuple[Language, Tensor, Tensor]:
    """A language of 15 completions (up to 3 tokens, 3 symbols), reference logits, and a step towards a policy, both (P, V)."""
    language = Language(3, 3)
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(2, *language.logits_shape, generator=generator, dtype=torch.float64)
    return language, 0.7 * tables[0], tables[1]


def audit_exactly(distance: float = 1.0) -> Audit:
    """Audit all cells on the small language, at a policy whose logits are `distance` times a fixed step from the reference."""
    language, ref_logits, step = small_language()
    logits = (ref_logits + distance * step).requires_grad_()
    ref_logps, probabilities = language.logps(ref_logits), language.probabilities(logits).detach()
    true_kl = language.kl(logits, ref_logits)
    (true,) = torch.autograd.grad(true_kl, logits)
    true_kl, true, size = true_kl.item(), true.flatten(), true.norm()
    rows = []
    for estimator, placement, level in CELLS:
        value = values(estimator, level, language.logps(logits.detach()), ref_logps, language.mask)
        mean = (probabilities * value).sum()
        per_completion = _gradients(
            objectives.kl_surrogate(
                language.logps(logits), ref_logps, language.mask, estimator=estimator, placement=placement, level=level
            ),
            logits,
        )
        gradient = probabilities @ per_completion
        variance = probabilities @ (per_completion - gradient).square().sum(1)
        is_zero = gradient.norm() < 1e-9 * size
        rows.append(
            Row(
                estimator,
                placement,
                level,
                value_bias=mean.item() / true_kl - 1,
                value_variance=(probabilities @ (value - mean).square()).item() / true_kl**2,
                cosine=math.nan if is_zero else torch.cosine_similarity(gradient, true, 0).item(),
                squared_error=((gradient - true).square().sum() / size**2).item(),
                gradient_variance=(variance / size**2).item(),
            )
        )
    return Audit(true_kl, rows)


def _gradients(per_completion: Tensor, logits: Tensor) -> Tensor:
    """Gradients (N, P·V) of N numbers."""
    each = torch.eye(len(per_completion), dtype=per_completion.dtype)
    (gradients,) = torch.autograd.grad(per_completion, logits, each, is_grads_batched=True)
    return gradients.flatten(1)
