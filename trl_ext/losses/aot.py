"""AOT: Alignment via Optimal Transport, paired form (Melnyk et al. 2024, arXiv:2406.05882)."""

from torch import Tensor

from trl_ext.losses._hyperparameters import FlipProbability, Positive
from trl_ext.losses._numerics import smoothed_logistic
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−(1−ε) log σ(βd) − ε log σ(−βd), d = sorted(ℓ_w − ℓ_l) − sorted(ℓ_w − ℓ_l of the reference)"
PAPER = "arXiv:2406.05882"
COUPLED = True
REDUCTION = "log-probs summed over completion tokens, then sorted over the optimizer step"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = (
    "The whole distribution of margins should improve rather than each pair; needs large steps, since it sorts the "
    "pairs of a step."
)


def aot(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
    label_smoothing: FlipProbability = 0.0,
) -> PairedOutput:
    """Logistic loss between matching quantiles of the policy's and the reference's margins  (Section 3).

    Inputs (B,), log-probs summed over completion tokens, of one whole optimizer step. The loss makes the policy's
    distribution of margins dominate the reference's in the first stochastic order. In one dimension, sorting
    solves the optimal transport problem.

    The i-th loss belongs to the i-th quantile, not to the i-th example; only the mean is meaningful. Rewards are in
    the order of the examples: β × log-ratio.
    """
    margins = (chosen_logps - rejected_logps).sort(dim=0).values
    ref_margins = (ref_chosen_logps - ref_rejected_logps).sort(dim=0).values
    losses = smoothed_logistic(beta * (margins - ref_margins), label_smoothing)
    return PairedOutput(
        losses,
        beta * (chosen_logps - ref_chosen_logps).detach(),
        beta * (rejected_logps - ref_rejected_logps).detach(),
    )


def initial_value(**_) -> float:
    """ln 2: all sorted differences are zero."""
    return 0.6931471805599453
