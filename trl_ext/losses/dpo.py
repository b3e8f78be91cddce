"""DPO: Direct Preference Optimization (Rafailov et al. 2023, arXiv:2305.18290)."""

from torch import Tensor

from trl_ext.losses._divergence import score
from trl_ext.losses._hyperparameters import Divergence, FlipProbability, Positive, Real
from trl_ext.losses._numerics import smoothed_logistic
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−(1−ε) log σ(βh) − ε log σ(−βh)"
PAPER = "arXiv:2305.18290"
ALIASES = ("sigmoid",)
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = (
    "The labels are mostly right and there is no particular worry: the default, and what other losses are compared "
    "with."
)
ONLY_WITH = {"f_alpha_divergence_coef": ("f_divergence_type", "alpha_divergence")}


def dpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
    label_smoothing: FlipProbability = 0.0,
    f_divergence_type: Divergence = "reverse_kl",
    f_alpha_divergence_coef: Real = 0.5,
) -> PairedOutput:
    """Negative log-likelihood of the preferences under Bradley–Terry with reward β·log π/π_ref  (Eq. 7).

    Inputs (B,), log-probs summed over completion tokens. h is the difference of the chosen and the rejected
    log-ratio, or of f′ with another divergence. Rewards: β × log-ratio with any divergence, as in TRL.

    `label_smoothing` ε is the assumed share of flipped labels: conservative DPO (Mitchell 2023,
    https://ericmitchell.ai/cdpo.pdf, Eq. 3). TRL 1.16 accepts ε with this loss and ignores it.

    The setting `humanline` clips the log-ratio of each token and lets the reference follow the policy.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    chosen_score = score(chosen_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    rejected_score = score(rejected_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    losses = smoothed_logistic(beta * (chosen_score - rejected_score), label_smoothing)
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def initial_value(**_) -> float:
    """ln 2 for any ε."""
    return 0.6931471805599453
