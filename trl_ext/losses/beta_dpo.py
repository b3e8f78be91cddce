"""β-DPO: DPO with a β that follows the margins of each step (Wu et al. 2024, arXiv:2407.08639)."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._hyperparameters import Momentum, NonNegative, Positive
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(β_t h), β_t = β(1 + α(mean h − M₀)), M₀ = moving average of mean h"
PAPER = "arXiv:2407.08639"
COUPLED = True
REDUCTION = "log-probs summed over completion tokens; mean h over the optimizer step"
BETA_UNIT = "per nat of summed log-ratio, in a step with the usual margin M₀"
WHEN = (
    "The quality of pairs varies and is not known: steps of clearly separated pairs get a larger β and stay closer to the "
    "reference."
)
STATE = {"mean_margin": 0.0}

SMALLEST = 1e-3
"""Lower limit of β_t, as in the authors' code."""


def beta_dpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    mean_margin: Tensor,
    *,
    beta: Positive = 0.1,
    dynamic_alpha: NonNegative = 0.6,
    margin_momentum: Momentum = 0.9,
) -> PairedOutput:
    """DPO's loss with one β_t for all pairs of an optimizer step, larger if their margins are larger than usual.

    Inputs (B,), log-probs summed over completion tokens, of one whole optimizer step. M₀ (`mean_margin`) is a scalar in nats:
    the moving average of the mean margin h over steps, this one included, as in the authors' code. β_t carries no gradient
    and is at least 0.001. β = 0.1 and a momentum of 0.9 are the paper's defaults. `dynamic_alpha` α = 0 is `dpo`; 0.6 is the example of
    the authors' repository.

    The paper defines margins with β, their code without: here as in the code. Its filter, which drops a random share of the
    pairs of a step by their distance from M₀, is not part of this loss. Rewards: β × log-ratio, with the fixed β.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    margin = chosen_log_ratio - rejected_log_ratio
    surplus = margin.detach().mean() - mean_margin
    step_beta = (beta * (1 + dynamic_alpha * surplus)).clamp(min=SMALLEST)
    losses = -logsigmoid(step_beta * margin)
    return PairedOutput(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def next_state(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    mean_margin: Tensor,
    *,
    margin_momentum: float,
    **_,
) -> dict[str, Tensor]:
    """M₀ after a step."""
    margin = chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps
    return {"mean_margin": margin_momentum * mean_margin + (1 - margin_momentum) * margin.mean()}


def initial_value(**_) -> float:
    """ln 2: all margins are zero, whatever β_t."""
    return 0.6931471805599453
