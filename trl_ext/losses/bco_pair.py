"""BCO without its reward shift: TRL's `bco_pair` (Jung et al. 2024, arXiv:2404.04656)."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._hyperparameters import Positive
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(βΔ_w) − log σ(−βΔ_l)"
PAPER = "arXiv:2404.04656"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = "As `bco`, without values that are kept from step to step; the form that MPO mixes with other losses."


def bco_pair(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
) -> PairedOutput:
    """Cross-entropy of a classifier with logit β·log-ratio that separates chosen from rejected; an upper bound of
    DPO's loss  (Section 4).

    Inputs (B,), log-probs summed over completion tokens. The paper subtracts a shift δ from the logit, the mean reward
    over training: that is `bco`. Here, as in TRL's `bco_pair`, δ = 0. MPO (arXiv:2411.10442) mixes this form with `dpo` and
    `sft`. Rewards: β × log-ratio.
    """
    chosen_rewards = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (rejected_logps - ref_rejected_logps)
    losses = -logsigmoid(chosen_rewards) - logsigmoid(-rejected_rewards)
    return PairedOutput(losses, chosen_rewards.detach(), rejected_rewards.detach())


def initial_value(**_) -> float:
    """2 ln 2: the cross-entropy at probability ½, for both completions of a pair."""
    return 1.3862943611198906
