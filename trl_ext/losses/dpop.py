"""DPOP: DPO-Positive, DPO that keeps chosen completions likely (Pal et al. 2024, arXiv:2402.13228)."""

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from trl_ext.losses._hyperparameters import NonNegative, Positive
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(β(h − λ·max(0, −Δ_w)))"
PAPER = "arXiv:2402.13228"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = (
    "Chosen and rejected completions differ in a few tokens (mathematics, code, corrections), where `dpo` lowers the "
    "likelihood of both."
)


def dpop(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.3,
    dpop_lambda: NonNegative = 50.0,
) -> PairedOutput:
    """DPO with a penalty on chosen completions that are less likely than under the reference.

    Inputs (B,), log-probs summed over completion tokens. The penalty is inside the sigmoid and so is multiplied by β.
    While Δ_w < 0, the gradient with respect to the chosen log-prob is 1 + λ times that of `dpo`; otherwise the two losses
    are equal. `dpop_lambda` λ = 0 is `dpo`. The defaults are those of the paper's Section 5, which reports little difference
    between λ = 5, 50 and 500. Rewards: β × log-ratio, without the penalty.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    penalty = dpop_lambda * relu(-chosen_log_ratio)
    losses = -logsigmoid(beta * (chosen_log_ratio - rejected_log_ratio - penalty))
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def initial_value(**_) -> float:
    """ln 2: margin and penalty are zero."""
    return 0.6931471805599453
