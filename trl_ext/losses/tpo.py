"""TPO: Triple Preference Optimization (Saeidi et al. 2024, arXiv:2405.16681)."""

from torch import Tensor

from trl_ext.losses._hyperparameters import FlipProbability, NonNegative, Positive
from trl_ext.losses._numerics import mean_logps, smoothed_logistic
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(β(ℓ_w − ℓ_l)) − α ℓ̄_gold"
PAPER = "arXiv:2405.16681"
REDUCTION = "log-probs summed over completion tokens; those of the gold completion averaged"
BETA_UNIT = "per nat of summed log-prob"
WHEN = "Your rows have a third completion that is better than the chosen one, and you do preference training without an SFT stage."


def tpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    gold_logps: Tensor,
    gold_lens: Tensor,
    *,
    beta: Positive = 0.01,
    tpo_alpha: NonNegative = 1.0,
    label_smoothing: FlipProbability = 0.0,
) -> PairedOutput:
    """Logistic loss on the difference of log-probs, plus the negative log-likelihood of a third, gold completion  (Eq. 3).

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens. Rows have a column `gold`: a completion that is
    better than the chosen one. The loss reads no reference. The likelihood α·ℓ̄_gold is averaged over each gold completion's
    tokens, then over examples; the authors and TRL's `TPOTrainer` average over all tokens of a micro-batch, which is equal
    at equal lengths. The authors train with β = 0.01 and α = 1, or α = 0.05 for models that were instruction-tuned.
    Rewards: β × summed log-prob.
    """
    losses = smoothed_logistic(beta * (chosen_logps - rejected_logps), label_smoothing)
    losses = losses - tpo_alpha * mean_logps(gold_logps, gold_lens)
    return PairedOutput(losses, beta * chosen_logps.detach(), beta * rejected_logps.detach())
