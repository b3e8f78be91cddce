"""DiscoPOP: the discovered log-ratio modulated loss (Lu et al. 2024, arXiv:2406.08414)."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._divergence import score
from trl_ext.losses._hyperparameters import Divergence, Positive, Real
from trl_ext.losses._numerics import bounded_exponent
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−(1−m) log σ(βh) + m e^(−βh), m = σ(βh/τ)"
PAPER = "arXiv:2406.08414"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = "You experiment with losses: this one was found by automatic search, and it is not convex."
ONLY_WITH = {"f_alpha_divergence_coef": ("f_divergence_type", "alpha_divergence")}


def discopop(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
    discopop_tau: Positive = 0.05,
    f_divergence_type: Divergence = "reverse_kl",
    f_alpha_divergence_coef: Real = 0.5,
) -> PairedOutput:
    """Blend of the logistic loss, for negative margins, and the exponential loss, for positive ones  (Eq. 5).

    Inputs (B,), log-probs summed over completion tokens. `discopop_tau` τ sets the sharpness of the transition. The
    loss is not convex: at τ = 0.05 it has a local minimum at βh = −0.12 and a local maximum at 0.07, and the start
    at 0 lies between them. So a margin first decreases a little, unless the gradients of other pairs move it past
    the maximum. The paper trains with β = 0.05. Rewards: β × log-ratio.

    The product m·e^(−βh) is computed in log space. For τ < 1 it vanishes as βh → −∞, while its factors become 0 and
    ∞: TRL 1.16 multiplies them and gets NaN for βh below −88 in float32. For τ > 1 the product grows without bound,
    and its exponent is limited.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    chosen_score = score(chosen_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    rejected_score = score(rejected_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    margin = beta * (chosen_score - rejected_score)
    logistic = -logsigmoid(margin) * (-margin / discopop_tau).sigmoid()
    exponential = bounded_exponent(logsigmoid(margin / discopop_tau) - margin).exp()
    losses = logistic + exponential
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def initial_value(**_) -> float:
    """½ ln 2 + ½: the mean of ln 2 and 1, the values of its two terms."""
    return 0.8465735902799727
