"""APO-down: Anchored Preference Optimization (D'Oosterlinck et al. 2024, arXiv:2408.06266)."""

from torch import Tensor

from trl_ext.losses._hyperparameters import Positive
from trl_ext.losses._outputs import PairedOutput

FORMULA = "σ(βΔ_w) + 1 − σ(βh)"
PAPER = "arXiv:2408.06266"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = (
    "The chosen completions are worse than what the model already writes: both should become less likely, the "
    "rejected one more so."
)


def apo_down(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
) -> PairedOutput:
    """Lower both completions below the reference, the rejected one further  (Eq. 8).

    Inputs (B,), log-probs summed over completion tokens. Use it for data whose chosen completions are worse than
    the model's own; if they are better, use `apo_zero`. At policy = reference, the two gradients of the chosen
    completion cancel. Rewards: β × log-ratio.
    """
    chosen_rewards = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (rejected_logps - ref_rejected_logps)
    losses = chosen_rewards.sigmoid() + (rejected_rewards - chosen_rewards).sigmoid()  # 1 − σ(x) = σ(−x)
    return PairedOutput(losses, chosen_rewards.detach(), rejected_rewards.detach())


def initial_value(**_) -> float:
    """1: ½ for each completion."""
    return 1.0
