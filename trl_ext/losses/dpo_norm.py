"""Length-normalised DPO (Lambert et al. 2024, Tülu 3, arXiv:2411.15124)."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._divergence import score
from trl_ext.losses._hyperparameters import Divergence, Positive, Real
from trl_ext.losses._numerics import mean_logps
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(βh̄)"
PAPER = "arXiv:2411.15124"
ALIASES = ("sigmoid_norm",)
REDUCTION = "log-ratios divided by completion tokens"
BETA_UNIT = "per nat per token"
WHEN = "As `dpo`, but completions differ much in length and long ones should not dominate."
ONLY_WITH = {"f_alpha_divergence_coef": ("f_divergence_type", "alpha_divergence")}


def dpo_norm(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lens: Tensor,
    rejected_lens: Tensor,
    *,
    beta: Positive = 5.0,
    f_divergence_type: Divergence = "reverse_kl",
    f_alpha_divergence_coef: Real = 0.5,
) -> PairedOutput:
    """DPO with each log-ratio divided by its completion's length before the difference.

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens. β is per nat *per token*. Tülu 3 uses
    β = 5. TRL's default is DPO's 0.1, whose effect is smaller here by the length of a completion, that is tens to
    hundreds of times. Rewards: β × summed log-ratio, not divided by the length, as in TRL.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    chosen_score = score(chosen_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    rejected_score = score(rejected_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    margin = beta * (mean_logps(chosen_score, chosen_lens) - mean_logps(rejected_score, rejected_lens))
    losses = -logsigmoid(margin)
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def initial_value(**_) -> float:
    """ln 2."""
    return 0.6931471805599453
