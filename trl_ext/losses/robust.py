"""rDPO: robust DPO, unbiased under flipped labels (Chowdhury et al. 2024, arXiv:2403.00409)."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._divergence import score
from trl_ext.losses._hyperparameters import Divergence, FlipProbability, Positive, Real
from trl_ext.losses._outputs import PairedOutput

FORMULA = "[−(1−ε) log σ(βh) + ε log σ(−βh)] / (1−2ε)"
PAPER = "arXiv:2403.00409"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = "A share of the labels is flipped, and you know about how large it is."
ONLY_WITH = {"f_alpha_divergence_coef": ("f_divergence_type", "alpha_divergence")}


def robust(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
    label_smoothing: FlipProbability = 0.1,
    f_divergence_type: Divergence = "reverse_kl",
    f_alpha_divergence_coef: Real = 0.5,
) -> PairedOutput:
    """DPO's loss, corrected so that with labels flipped at rate ε its mean equals the mean on clean labels  (Section 3.1).

    Inputs (B,), log-probs summed over completion tokens. `label_smoothing` is ε. With TRL's default of 0, this loss is
    `dpo`. The correction rewards wrong margins on a share ε of the pairs, so the loss has no lower bound: it falls
    as −ε/(1−2ε)·βh for h → ∞. The paper trains with β = 0.01.

    Rewards: β × log-ratio.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    chosen_score = score(chosen_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    rejected_score = score(rejected_log_ratio, f_divergence_type, f_alpha_divergence_coef)
    margin = beta * (chosen_score - rejected_score)
    noisy = -(1 - label_smoothing) * logsigmoid(margin) + label_smoothing * logsigmoid(-margin)
    losses = noisy / (1 - 2 * label_smoothing)
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def initial_value(**_) -> float:
    """ln 2: (1−ε) ln 2 − ε ln 2, over 1 − 2ε."""
    return 0.6931471805599453
