"""SPPO: Self-Play Preference Optimization, hard labels (Wu et al. 2024, arXiv:2405.00675)."""

from torch import Tensor

from trl_ext.losses._hyperparameters import Positive
from trl_ext.losses._outputs import PairedOutput

FORMULA = "(Δ_w − 1/(2β))² + (Δ_l + 1/(2β))²"
PAPER = "arXiv:2405.00675"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "1/(2β) is the target log-ratio in nats (the paper's η is 1/β)"
WHEN = "Pairs are the model's own completions, sampled in rounds: each log-ratio has a target to stop at."


def sppo_hard(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
) -> PairedOutput:
    """Squared distance of each log-ratio from η(P − ½), with P = 1 for chosen and 0 for rejected  (Eq. 4.7).

    Inputs (B,), log-probs summed over completion tokens. The paper estimates P with a pairwise reward model from
    several samples; here P is the label. η = 1/β. The paper uses η = 1000, that is β = 0.001 with a target of 500
    nats. Rewards: β × log-ratio.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    target = 0.5 / beta
    losses = (chosen_log_ratio - target) ** 2 + (rejected_log_ratio + target) ** 2
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def initial_value(*, beta: float, **_) -> float:
    """1/(2β²): twice the squared target."""
    return 0.5 / beta**2
