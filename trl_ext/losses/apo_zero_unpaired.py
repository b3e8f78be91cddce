"""APO-zero on single completions: KTO with its reference point at zero (arXiv:2408.06266)."""

from torch import Tensor

from trl_ext.losses._hyperparameters import ClassWeight, Positive
from trl_ext.losses._outputs import UnpairedOutput
from trl_ext.losses._weights import class_weights, equal_weight

FORMULA = "λ_D (1 − σ(βΔ)) desirable, λ_U σ(βΔ) undesirable"
PAPER = "arXiv:2408.06266"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = (
    "As `kto`, without the baseline: no mismatched completions are scored, and steps may be small or have a single "
    "prompt."
)


def apo_zero_unpaired(
    logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    *,
    beta: Positive = 0.1,
    desirable_weight: ClassWeight = 1.0,
    undesirable_weight: ClassWeight = 1.0,
) -> UnpairedOutput:
    """Raise desirable completions above the reference, lower undesirable ones below it  (Eq. 7, one term each).

    Inputs (B,), log-probs summed over completion tokens; `desirable` bool. The loss needs no mismatched
    completions, since its anchor is the reference.

    The trainer replaces a weight "auto" by a number (so that λ_D·n_D = λ_U·n_U). ValueError if a weight is still
    "auto". Rewards: β × log-ratio.
    """
    rewards = beta * (logps - ref_logps)
    weights = class_weights(desirable, desirable_weight, undesirable_weight, rewards.dtype)
    losses = weights * (-rewards).where(desirable, rewards).sigmoid()  # 1 − σ(x) = σ(−x)
    return UnpairedOutput(losses, rewards.detach())


def initial_value(*, desirable_weight: float | str, undesirable_weight: float | str, **_) -> float | None:
    """½λ if both weights are λ; with unequal weights it depends on the share of desirable examples."""
    weight = equal_weight(desirable_weight, undesirable_weight)
    return None if weight is None else weight / 2
