"""CPO: Contrastive Preference Optimization (Xu et al. 2024, arXiv:2401.08417)."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import relu

from trl_ext.losses._hyperparameters import FlipProbability, NonNegative, Positive
from trl_ext.losses._numerics import mean_logps, smoothed_logistic
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(β(ℓ_w − ℓ_l)) − α ℓ̄_w"
PAPER = "arXiv:2401.08417"
REDUCTION = "log-probs summed over completion tokens in the preference term, averaged in the likelihood term"
BETA_UNIT = "per nat of summed log-prob"
WHEN = "There is no memory or time for a reference pass, and the chosen completions are good enough to imitate."
ONLY_WITH = {"label_smoothing": ("loss_form", "sigmoid")}


def cpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lens: Tensor,
    rejected_lens: Tensor,
    *,
    beta: Positive = 0.1,
    cpo_alpha: NonNegative = 1.0,
    label_smoothing: FlipProbability = 0.0,
    loss_form: Literal["sigmoid", "hinge", "ipo"] = "sigmoid",
) -> PairedOutput:
    """DPO's loss with a uniform reference, plus `cpo_alpha` × the negative log-likelihood of chosen  (Section 3).

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens. The loss reads no reference.
    `loss_form` selects another preference term, as in TRL's CPO: hinge, max(0, 1 − β(ℓ_w − ℓ_l)), or ipo,
    (ℓ̄_w − ℓ̄_l − 1/(2β))² on mean token log-probs. For the simpo and alphapo of TRL's CPO, use those losses, in a mix
    with `sft` for the likelihood term.

    The likelihood is averaged over each completion's tokens, then over examples. The paper has a sum; the authors'
    code and TRL average over all tokens of a micro-batch. Rewards: β × log-prob, summed or averaged as in the
    preference term.
    """
    chosen_mean = mean_logps(chosen_logps, chosen_lens)
    if loss_form == "ipo":
        chosen_reward, rejected_reward = chosen_mean, mean_logps(rejected_logps, rejected_lens)
    else:
        chosen_reward, rejected_reward = chosen_logps, rejected_logps
    difference = chosen_reward - rejected_reward
    if loss_form == "sigmoid":
        preference = smoothed_logistic(beta * difference, label_smoothing)
    elif loss_form == "hinge":
        preference = relu(1 - beta * difference)
    else:
        preference = (difference - 1 / (2 * beta)) ** 2
    losses = preference - cpo_alpha * chosen_mean
    return PairedOutput(losses, beta * chosen_reward.detach(), beta * rejected_reward.detach())
