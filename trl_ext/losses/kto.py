"""KTO: Kahneman–Tversky Optimization (Ethayarajh et al. 2024, arXiv:2402.01306)."""

from torch import Tensor

from trl_ext.losses._hyperparameters import ClassWeight, Positive
from trl_ext.losses._outputs import UnpairedOutput
from trl_ext.losses._weights import class_weights, equal_weight

FORMULA = "λ_D (1 − σ(β(Δ − z))) desirable, λ_U (1 − σ(β(z − Δ))) undesirable"
PAPER = "arXiv:2402.01306"
REDUCTION = "log-probs summed over completion tokens; z averaged over the optimizer step"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = "You have single completions with a thumbs up or down, or far more of one kind than of the other."


def kto(
    logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    z_ref: Tensor,
    *,
    beta: Positive = 0.1,
    desirable_weight: ClassWeight = 1.0,
    undesirable_weight: ClassWeight = 1.0,
) -> UnpairedOutput:
    """Kahneman–Tversky value of a completion's log-ratio against the reference point z.

    Inputs (B,), log-probs summed over completion tokens; `desirable` bool. `z_ref` is a scalar without gradient: the
    mean log π/π_ref of completions paired with other prompts, over the whole step and all processes, set to 0 if it
    is negative. It estimates KL(π‖π_ref).

    The trainer replaces a weight "auto" by a number (so that λ_D·n_D = λ_U·n_U). ValueError if a weight is still
    "auto". Rewards: β × log-ratio, without z. Losses are in the order of the examples (TRL puts desirable first).

    The setting `humanline` clips the log-ratio of each token and lets the reference follow the policy.
    """
    log_ratio = logps - ref_logps
    weights = class_weights(desirable, desirable_weight, undesirable_weight, log_ratio.dtype)
    surplus = (log_ratio - z_ref).where(desirable, z_ref - log_ratio)
    losses = weights * (-beta * surplus).sigmoid()  # 1 − σ(x) = σ(−x), without the cancellation
    return UnpairedOutput(losses, beta * log_ratio.detach())


def initial_value(*, desirable_weight: float | str, undesirable_weight: float | str, **_) -> float | None:
    """½λ if both weights are λ; with unequal weights it depends on the share of desirable examples."""
    weight = equal_weight(desirable_weight, undesirable_weight)
    return None if weight is None else weight / 2
