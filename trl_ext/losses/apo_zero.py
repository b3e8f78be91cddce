"""APO-zero: Anchored Preference Optimization (D'Oosterlinck et al. 2024, arXiv:2408.06266)."""

from torch import Tensor

from trl_ext.losses._hyperparameters import Positive
from trl_ext.losses._outputs import PairedOutput

FORMULA = "1 − σ(βΔ_w) + σ(βΔ_l)"
PAPER = "arXiv:2408.06266"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = "The chosen completions are better than what the model already writes, and must become more likely."


def apo_zero(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
) -> PairedOutput:
    """Raise the chosen completion above the reference, lower the rejected one below it  (Eq. 7).

    Inputs (B,), log-probs summed over completion tokens. Use it for data whose chosen completions are better than
    the model's own; if they are worse, use `apo_down`. Both terms saturate, so pairs far from the reference have
    small gradients. Rewards: β × log-ratio.
    """
    chosen_rewards = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (rejected_logps - ref_rejected_logps)
    losses = (-chosen_rewards).sigmoid() + rejected_rewards.sigmoid()  # 1 − σ(x) = σ(−x)
    return PairedOutput(losses, chosen_rewards.detach(), rejected_rewards.detach())


def initial_value(**_) -> float:
    """1: ½ for each completion."""
    return 1.0
