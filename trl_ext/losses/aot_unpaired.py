"""AOT: Alignment via Optimal Transport, unpaired form (Melnyk et al. 2024, arXiv:2406.05882)."""

from torch import Tensor

from trl_ext.losses._hyperparameters import FlipProbability, Positive
from trl_ext.losses._numerics import smoothed_logistic
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−(1−ε) log σ(βd) − ε log σ(−βd), d = sorted(Δ_w) − sorted(Δ_l)"
PAPER = "arXiv:2406.05882"
ALIASES = ("aot_pair",)  # its name in TRL before 1.0
COUPLED = True
REDUCTION = "log-probs summed over completion tokens, then log-ratios sorted over the optimizer step"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = "As `aot`, with rejected completions that need not belong to the chosen ones' prompts; needs large steps."


def aot_unpaired(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
    label_smoothing: FlipProbability = 0.0,
) -> PairedOutput:
    """Logistic loss between matching quantiles of the chosen and the rejected log-ratios  (Section 3).

    Inputs (B,), log-probs summed over completion tokens, of one whole optimizer step. The loss makes the
    distribution of chosen rewards dominate that of rejected rewards in the first stochastic order. It does not
    depend on which rejected completion belongs to which chosen one, hence the name. The data still has one
    rejected completion for each chosen one.

    The i-th loss belongs to the i-th quantile, not to the i-th example; only the mean is meaningful. Rewards are in
    the order of the examples: β × log-ratio.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    quantile_margins = chosen_log_ratio.sort(dim=0).values - rejected_log_ratio.sort(dim=0).values
    losses = smoothed_logistic(beta * quantile_margins, label_smoothing)
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def initial_value(**_) -> float:
    """ln 2: all log-ratios are zero, in any order."""
    return 0.6931471805599453
