"""SLiC's hinge on DPO's margin (Zhao et al. 2023, arXiv:2305.10425; Liu et al. 2023, arXiv:2309.06657)."""

from torch import Tensor
from torch.nn.functional import relu

from trl_ext.losses._divergence import score
from trl_ext.losses._hyperparameters import Divergence, Positive, Real
from trl_ext.losses._outputs import PairedOutput

FORMULA = "max(0, 1 − βh)"
PAPER = "arXiv:2309.06657"
ALIASES = ("slic",)
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio: the target margin is 1/β nats"
WHEN = "Pairs that are ranked right by a margin should have no further effect."
ONLY_WITH = {"f_alpha_divergence_coef": ("f_divergence_type", "alpha_divergence")}


def hinge(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
    f_divergence_type: Divergence = "reverse_kl",
    f_alpha_divergence_coef: Real = 0.5,
) -> PairedOutput:
    """Hinge loss on the log-ratio margin: pairs with a margin of 1/β nats or more have no gradient.

    Inputs (B,), log-probs summed over completion tokens. This is the hinge-norm loss of the RSO paper, whose γ is β
    (0.05 there). SLiC's own loss has no reference in the margin and adds a likelihood term. Rewards: β × log-ratio.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    chosen_score = score(chosen_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    rejected_score = score(rejected_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    losses = relu(1 - beta * (chosen_score - rejected_score))
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def initial_value(**_) -> float:
    """1, at zero margin."""
    return 1.0
