"""TDPO: Token-level Direct Preference Optimization (Zeng et al. 2024, arXiv:2404.11999)."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._hyperparameters import NonNegative, Positive
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(β(h − α(K_l − K_w without gradient)))"
PAPER = "arXiv:2404.11999"
REDUCTION = "log-probs and the KL of each token's distribution summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = (
    "The model must stay near the reference at every token and not only on the completions of the data, and time is no worry: "
    "the reference runs in every step."
)
ONLY_WITH = {"tdpo_alpha": ("loss_form", "tdpo2")}


def tdpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_kl: Tensor,
    rejected_kl: Tensor,
    *,
    beta: Positive = 0.1,
    tdpo_alpha: NonNegative = 0.5,
    loss_form: Literal["tdpo2", "tdpo1"] = "tdpo2",
) -> PairedOutput:
    """DPO whose margin includes the difference of the sequential KL divergences of the two completions.

    Inputs (B,), log-probs summed over completion tokens. K (`chosen_kl`, `rejected_kl`) sums, over the tokens of a completion,
    KL(π_ref ‖ π) of the whole next-token distribution, in nats. The gradient pulls the distributions along the rejected
    completion towards the reference, since the policy drifts most there. α = 0 is `dpo`.

    `loss_form: tdpo1` is the paper's first form, h − (K_l − K_w) with a gradient through both. The reference cache holds the
    log-probs of the data's tokens and cannot give K, so each step runs the reference and multiplies by the LM head twice
    more. Rewards: β × (log-ratio + K), as in the authors' code.
    """
    chosen_log_ratio = chosen_logps - ref_chosen_logps
    rejected_log_ratio = rejected_logps - ref_rejected_logps
    drift = rejected_kl - chosen_kl if loss_form == "tdpo1" else tdpo_alpha * (rejected_kl - chosen_kl.detach())
    losses = -logsigmoid(beta * (chosen_log_ratio - rejected_log_ratio - drift))
    chosen_rewards = beta * (chosen_log_ratio + chosen_kl).detach()
    rejected_rewards = beta * (rejected_log_ratio + rejected_kl).detach()
    return PairedOutput(losses, chosen_rewards, rejected_rewards)


def initial_value(**_) -> float:
    """ln 2: all log-ratios and divergences are zero."""
    return 0.6931471805599453
