"""EXO: Efficient Exact Optimization, pairwise form (Ji et al. 2024, arXiv:2402.00856)."""

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._divergence import score
from trl_ext.losses._hyperparameters import Divergence, Positive, PositiveFlipProbability, Real
from trl_ext.losses._outputs import PairedOutput

FORMULA = "σ(βh) [log σ(βh) − log(1−ε)] + σ(−βh) [log σ(−βh) − log ε]"
PAPER = "arXiv:2402.00856"
ALIASES = ("exo_pair",)
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = (
    "Pairs are few and reliable, and the policy should concentrate on the best completion instead of covering all "
    "good ones."
)
ONLY_WITH = {"f_alpha_divergence_coef": ("f_divergence_type", "alpha_divergence")}


def exo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
    label_smoothing: PositiveFlipProbability = 1e-3,
    f_divergence_type: Divergence = "reverse_kl",
    f_alpha_divergence_coef: Real = 0.5,
) -> PairedOutput:
    """Reverse KL from the policy's preference (σ(βh), σ(−βh)) to the label's (1 − ε, ε)  (Eq. 16, K = 2).

    Inputs (B,), log-probs summed over completion tokens. DPO minimises the forward KL between the same two
    distributions. `label_smoothing` ε must be positive, since the reverse KL is infinite at 0. The minimum is 0, at
    βh = log((1−ε)/ε). Rewards: β × log-ratio.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    chosen_score = score(chosen_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    rejected_score = score(rejected_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    margin = beta * (chosen_score - rejected_score)
    losses = margin.sigmoid() * (logsigmoid(margin) - math.log1p(-label_smoothing)) + (-margin).sigmoid() * (
        logsigmoid(-margin) - math.log(label_smoothing)
    )
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def initial_value(*, label_smoothing: float, **_) -> float:
    """KL from (½, ½) to (1 − ε, ε): −ln 2 − ½ ln(ε(1 − ε))."""
    return -0.6931471805599453 - 0.5 * math.log(label_smoothing * (1 - label_smoothing))
