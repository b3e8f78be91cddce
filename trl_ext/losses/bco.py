"""BCO: Binary Classifier Optimization, on pairs (Jung et al. 2024, arXiv:2404.04656)."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._hyperparameters import Positive
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(βΔ_w) − log σ(−βΔ_l)"
PAPER = "arXiv:2404.04656"
ALIASES = ("bco_pair",)
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"


def bco(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
) -> PairedOutput:
    """Cross-entropy of a classifier, logit β·log-ratio, that tells chosen from rejected; bounds DPO from
    above  (Section 4).

    Inputs (B,), log-probs summed over completion tokens. The paper trains with β = 0.01, and subtracts from
    the logit a shift δ, a moving average over training of half the mean chosen plus half the mean rejected
    reward; δ = 0 here and in TRL's `bco_pair`.

    There is no unpaired form: on single completions δ is what makes the bound tight, and being state carried
    from step to step (and through checkpoints) it is not a function of one batch. δ taken from the current
    step alone would be another loss, undefined when a step holds only one class; `kto` and
    `apo_zero_unpaired` are the stateless alternatives. Rewards: β × log-ratio.
    """
    chosen_rewards = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (rejected_logps - ref_rejected_logps)
    losses = -logsigmoid(chosen_rewards) - logsigmoid(-rejected_rewards)
    return PairedOutput(losses, chosen_rewards.detach(), rejected_rewards.detach())


def initial_value(**_) -> float:
    """2 ln 2: two coin tosses."""
    return 1.3862943611198906
