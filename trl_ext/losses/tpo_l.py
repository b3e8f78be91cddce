"""TPO-L: Triple Preference Optimization with length normalisation and a margin (Saeidi et al. 2024, arXiv:2405.16681)."""

from torch import Tensor

from trl_ext.losses._hyperparameters import FlipProbability, NonNegative, Positive
from trl_ext.losses._numerics import mean_logps, smoothed_logistic
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(β(ℓ̄_w − ℓ̄_l) − γ) − α ℓ̄_gold"
PAPER = "arXiv:2405.16681"
ALIASES = ("tpo-l",)
REDUCTION = "log-probs averaged over completion tokens"
BETA_UNIT = "per nat of log-prob per token"
WHEN = "As `tpo`, but completions should not grow longer."


def tpo_l(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lens: Tensor,
    rejected_lens: Tensor,
    gold_logps: Tensor,
    gold_lens: Tensor,
    *,
    beta: Positive = 2.0,
    gamma: NonNegative = 1.6,
    tpo_alpha: NonNegative = 0.05,
    label_smoothing: FlipProbability = 0.0,
) -> PairedOutput:
    """Logistic loss on the difference of mean log-probs less a target margin γ, plus the negative log-likelihood of a third,
    gold completion  (Section 3.2).

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens. It is `simpo`'s loss plus α times the negative
    mean log-prob of the column `gold`; see `tpo` for how that is averaged. The defaults are those with which the authors
    trained Mistral-7B; TRL's `TPOTrainer` has β = 0.01, γ = 0.5 and α = 1, and calls γ `tpo_l_gamma`. Rewards: β × mean
    log-prob.
    """
    chosen_rewards = beta * mean_logps(chosen_logps, chosen_lens)
    rejected_rewards = beta * mean_logps(rejected_logps, rejected_lens)
    losses = smoothed_logistic(chosen_rewards - rejected_rewards - gamma, label_smoothing)
    losses = losses - tpo_alpha * mean_logps(gold_logps, gold_lens)
    return PairedOutput(losses, chosen_rewards.detach(), rejected_rewards.detach())
