"""IPO: Identity Preference Optimization (Azar et al. 2023, arXiv:2310.12036)."""

import torch
from torch import Tensor

from trl_ext.losses._divergence import score
from trl_ext.losses._hyperparameters import Divergence, Positive, Real
from trl_ext.losses._numerics import mean_logps
from trl_ext.losses._outputs import PairedOutput

FORMULA = "(h̄ − 1/(2β))²"
PAPER = "arXiv:2310.12036"
REDUCTION = "log-ratios divided by completion tokens (summed instead with average: false)"
BETA_UNIT = "the paper's τ: 1/(2β) is the targeted margin, in nats per token (in nats with average: false)"
WHEN = (
    "Each pair has one clear winner, so `dpo` would move ever further from the reference: this loss stops at a margin."
)
ONLY_WITH = {"f_alpha_divergence_coef": ("f_divergence_type", "alpha_divergence")}


def ipo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lens: Tensor,
    rejected_lens: Tensor,
    *,
    beta: Positive = 0.1,
    average: bool = True,
    f_divergence_type: Divergence = "reverse_kl",
    f_alpha_divergence_coef: Real = 0.5,
) -> PairedOutput:
    """Squared distance of the log-ratio margin from 1/(2β)  (Eq. 17; β is the paper's τ).

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens. With `average` each log-ratio is
    divided by its completion's length before the difference. This is not in the paper, but its authors told TRL that
    its results were obtained this way, and TRL and HALOs do the same. `average=False` is the equation of the paper.
    Only this form has the closed-form optimum π ∝ π_ref·exp(p(y ≻ μ)/τ).

    Rewards: β × summed log-ratio in both forms, as in TRL.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    chosen_score = score(chosen_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    rejected_score = score(rejected_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    if average:
        chosen_score = mean_logps(chosen_score, chosen_lens)
        rejected_score = mean_logps(rejected_score, rejected_lens)
    if f_divergence_type != "reverse_kl":
        # Scores are exponentials here. Limit them so that the square and its gradient fit in the dtype.
        largest = torch.finfo(chosen_score.dtype).max ** 0.45
        chosen_score, rejected_score = (s.clamp(-largest, largest) for s in (chosen_score, rejected_score))
    losses = (chosen_score - rejected_score - 1 / (2 * beta)) ** 2
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def initial_value(*, beta: float, **_) -> float:
    """1/(4β²): the squared target, at zero margin."""
    return 0.25 / beta**2
