"""SimPO: Simple Preference Optimization with a reference-free reward (Meng et al. 2024, arXiv:2405.14734)."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import relu

from trl_ext.losses._hyperparameters import FlipProbability, NonNegative, Positive
from trl_ext.losses._numerics import mean_logps, smoothed_logistic
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(β(ℓ̄_w − ℓ̄_l) − γ)"
PAPER = "arXiv:2405.14734"
REDUCTION = "log-probs averaged over completion tokens"
BETA_UNIT = "per nat per token"
WHEN = (
    "There is no time for a reference pass and completions must not grow longer; the learning rate limits the "
    "distance."
)
EXCLUSIVE = (("gamma_beta_ratio", "gamma"),)
ONLY_WITH = {"label_smoothing": ("loss_form", "sigmoid")}


def simpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lens: Tensor,
    rejected_lens: Tensor,
    *,
    beta: Positive = 2.0,
    gamma_beta_ratio: NonNegative | None = 0.25,
    gamma: NonNegative | None = None,
    label_smoothing: FlipProbability = 0.0,
    loss_form: Literal["sigmoid", "hinge"] = "sigmoid",
) -> PairedOutput:
    """Logistic loss on the difference of mean token log-probs, less a target margin γ  (Eq. 6).

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens. γ is `gamma` if it is given, otherwise
    β·`gamma_beta_ratio` (the authors' parameter; their table has ratios from 0.3 to 1.6). The loss reads no reference.
    Rewards: β × mean token log-prob, without γ.

    `label_smoothing` and `loss_form="hinge"`, max(0, 1 − (β(ℓ̄_w − ℓ̄_l) − γ)), come from the authors' trainer. TRL's
    CPO trainer calls γ `simpo_gamma`, has the defaults β = 0.1 and γ = 0.5 (a ratio of 5), and adds an NLL term: use
    {simpo: 1, sft: w} for it.
    """
    chosen_mean = mean_logps(chosen_logps, chosen_lens)
    rejected_mean = mean_logps(rejected_logps, rejected_lens)
    target = beta * gamma_beta_ratio if gamma is None else gamma
    margin = beta * (chosen_mean - rejected_mean) - target
    losses = relu(1 - margin) if loss_form == "hinge" else smoothed_logistic(margin, label_smoothing)
    return PairedOutput(losses, beta * chosen_mean.detach(), beta * rejected_mean.detach())
