"""AlphaPO: SimPO with a reshaped reward (Gupta et al. 2025, arXiv:2501.03884)."""

from torch import Tensor, expm1

from trl_ext.losses._hyperparameters import FlipProbability, NonNegative, Positive, Real
from trl_ext.losses._numerics import bounded_exponent, mean_logps, smoothed_logistic
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(β(r_w − r_l) − γ), r = (1 − e^(−αℓ̄))/α"
PAPER = "arXiv:2501.03884"
REDUCTION = "log-probs averaged over completion tokens"
BETA_UNIT = "per unit of reshaped reward (per nat per token at α = 0)"
WHEN = "As `simpo`, but unlikely completions should count more (α > 0) or less (α < 0) than likely ones."


def alphapo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lens: Tensor,
    rejected_lens: Tensor,
    *,
    alpha: Real = 0.25,
    beta: Positive = 2.5,
    gamma: NonNegative = 0.1,
    label_smoothing: FlipProbability = 0.0,
) -> PairedOutput:
    """Logistic loss on the difference of the rewards r = (1 − p^(−α))/α, less a target margin γ.

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens. p is the geometric mean of a
    completion's token probabilities. The loss reads no reference. α = 0 is SimPO (r = log p). A positive α gives
    unlikely completions a larger gradient, a negative α likely ones. The defaults are those of the paper for
    Mistral-7B-Instruct. TRL calls γ `simpo_gamma`. Rewards: β × r.

    TRL computes p^(−α), so a p that underflows gives ∞ − ∞ = NaN. Here the power is exp(−αℓ̄), with its exponent
    limited so that it does not overflow.
    """
    chosen_reward = beta * _reshape(mean_logps(chosen_logps, chosen_lens), alpha)
    rejected_reward = beta * _reshape(mean_logps(rejected_logps, rejected_lens), alpha)
    losses = smoothed_logistic(chosen_reward - rejected_reward - gamma, label_smoothing)
    return PairedOutput(losses, chosen_reward.detach(), rejected_reward.detach())


def _reshape(log_prob: Tensor, alpha: float) -> Tensor:
    if alpha == 0:
        return log_prob
    return -expm1(bounded_exponent(-alpha * log_prob)) / alpha
