"""FocalPO: DPO that focuses on correctly ranked pairs (Liu et al. 2025, arXiv:2501.06645)."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._hyperparameters import NonNegative, Positive
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−σ(βh)^γ log σ(βh)"
PAPER = "arXiv:2501.06645"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = "Some pairs are mislabelled or beyond the model: pairs that it ranks wrongly have less weight than in `dpo`."


def focalpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
    focal_gamma: NonNegative = 0.05,
) -> PairedOutput:
    """DPO's loss times p^γ, with p = σ(βh) the probability that the policy gives to the preference.

    Inputs (B,), log-probs summed over completion tokens. The factor is the mirror of the focal loss of object detection,
    (1 − p)^γ: pairs that are ranked wrongly have less weight, not more. It carries a gradient.

    `focal_gamma` γ = 0 is `dpo`. The gradient has the factor 1 + γ log p, so pairs with p < e^(−1/γ) are pushed in the
    wrong direction: with γ = 0.05 none in practice (p < 2e-9), with γ ≥ 1.45 all pairs at the start of training, where
    p = ½. The authors fix one γ for all their models. They have published no code, and 0.05 was not compared with their value.
    Rewards: β × log-ratio.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    log_p = logsigmoid(beta * (chosen_log_ratio - rejected_log_ratio))
    losses = -(focal_gamma * log_p).exp() * log_p
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def initial_value(*, focal_gamma: float, **_) -> float:
    """2^(−γ) ln 2."""
    return 0.6931471805599453 * 2**-focal_gamma
