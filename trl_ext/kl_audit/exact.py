"""KL estimators on a language small enough that bias and variance of value and gradient are exact sums."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trl_ext.rl import kl, objectives
from trl_ext.rl.enumerable import Language

CELLS = list(itertools.product(kl.ESTIMATORS, kl.PLACEMENTS, kl.LEVELS))
DISTANCES = [0.02 * 1.35**i for i in range(18)]
"""Of the pictured policies from the reference, in units of that of the tabulated one."""


@dataclass(frozen=True)
class Row:
    """What one cell does, everything relative to the true KL or to the length of its true gradient.

    Attributes:
        estimator, placement, level: The cell.
        value_bias, value_variance: Of the value of one completion, in units of KL and KL².
        cosine: Of the expected gradient with the true one; NaN where it is zero, or not told from zero. By sampling a
            quotient of unbiased estimates of products and lengths, beyond 1 at times.
        squared_error: Squared length of the expected gradient's difference from the true one; by sampling an unbiased
            estimate, negative at times.
        gradient_variance: Of one completion's gradient, summed over its components.
        *_se: Standard errors where measured by sampling, else 0.
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
        """Length of the expected gradient's difference from the true one, 0 where the estimate of its square is below."""
        return math.sqrt(max(self.squared_error, 0.0))


@dataclass(frozen=True)
class Audit:
    """Rows of all cells, and the KL they were measured at.

    Attributes:
        kl: In nats per completion.
        rows: One per cell.
        kl_se: Its standard error, 0 if exact.
        n: Completions sampled; `None` if exact.
        n_weights: Weights that gradients were taken for; `None` if all.
    """

    kl: float
    rows: list[Row]
    kl_se: float = 0.0
    n: int | None = None
    n_weights: int | None = None


def values(estimator: str, level: str, logps: Tensor, ref_logps: Tensor, mask: Tensor) -> Tensor:
    """The estimator's value (B,) of each completion: of the summed log-ratio, or summed over tokens."""
    return objectives.kl_loss(logps, ref_logps, mask, estimator=estimator, level=level)


def small_language() -> tuple[Language, Tensor, Tensor]:
    """Fifteen completions of at most three tokens out of three, a reference and the way to a policy (P, V)."""
    language = Language(3, 3)
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(2, *language.logits_shape, generator=generator, dtype=torch.float64)
    return language, 0.7 * tables[0], tables[1]


def exact(distance: float = 1.0) -> Audit:
    """All cells on the small language, at a policy whose logits are `distance` times a fixed table away."""
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
    """Gradient (N, P·V) of each of N numbers."""
    each = torch.eye(len(per_completion), dtype=per_completion.dtype)
    (gradients,) = torch.autograd.grad(per_completion, logits, each, is_grads_batched=True)
    return gradients.flatten(1)
