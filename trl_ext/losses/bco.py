"""BCO: Binary Classifier Optimization, on pairs (Jung et al. 2024, arXiv:2404.04656)."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._hyperparameters import Momentum, Positive
from trl_ext.losses._outputs import PairedOutput
from trl_ext.losses._running import running_mean

FORMULA = "−log σ(βΔ_w − δ) − log σ(−(βΔ_l − δ)), δ = mean of βΔ over the steps before"
PAPER = "arXiv:2404.04656"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = (
    "Each reward should have a level of its own, as of a classifier, so that a single completion can be judged good "
    "or bad."
)
STATE = {"delta": 0.0, "count": 0.0}


def bco(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    delta: Tensor,
    *,
    beta: Positive = 0.1,
    delta_momentum: Momentum = 1.0,
) -> PairedOutput:
    """Cross-entropy of a classifier with logit β·log-ratio − δ that separates chosen from rejected; an upper bound of DPO's
    loss, which the reward shift δ makes tighter  (Section 4).

    Inputs (B,), log-probs summed over completion tokens. δ is a scalar without gradient: half the mean reward of chosen plus
    half that of rejected completions, over all training steps before this one, and 0 in the first. With
    `delta_momentum: 1`, the default, it is the mean over all examples so far, as in the authors' code in TRL (`BCOTrainer`);
    below 1 it is an exponential moving average. Their δ already includes the current micro-batch; here the loss of a step
    does not depend on how it is cut. The paper trains with β = 0.01. `bco_pair` is the loss with δ = 0.

    Underlying distribution matching (Section 5 of the paper), which weighs examples by a classifier of prompts, is not
    included. Rewards: β × log-ratio, without δ.
    """
    chosen_rewards = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (rejected_logps - ref_rejected_logps)
    losses = -logsigmoid(chosen_rewards - delta) - logsigmoid(delta - rejected_rewards)
    return PairedOutput(losses, chosen_rewards.detach(), rejected_rewards.detach())


def next_state(
    delta: Tensor,
    count: Tensor,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
    delta_momentum: float,
) -> dict[str, Tensor]:
    """δ and the number of pairs after a step."""
    rewards = beta * (chosen_logps - ref_chosen_logps + rejected_logps - ref_rejected_logps) / 2
    delta, count = running_mean(delta, count, rewards, delta_momentum)
    return {"delta": delta, "count": count}


def initial_value(**_) -> float:
    """2 ln 2: the cross-entropy at probability ½, for both completions of a pair."""
    return 1.3862943611198906
