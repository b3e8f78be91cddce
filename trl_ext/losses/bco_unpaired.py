"""BCO: Binary Classifier Optimization, on labelled completions (Jung et al. 2024, arXiv:2404.04656)."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._hyperparameters import ClassWeight, Momentum, Positive
from trl_ext.losses._outputs import UnpairedOutput
from trl_ext.losses._running import running_mean
from trl_ext.losses._weights import class_weights, equal_weight

FORMULA = "−λ_D log σ(βΔ − δ) desirable, −λ_U log σ(δ − βΔ) undesirable; δ: running mean of βΔ"
PAPER = "arXiv:2404.04656"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = (
    "As `kto`, but a bad completion should keep its gradient however bad it is; no mismatched completions are scored."
)
STATE = {"desirable_mean": 0.0, "undesirable_mean": 0.0, "desirable_count": 0.0, "undesirable_count": 0.0}


def bco_unpaired(
    logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    desirable_mean: Tensor,
    undesirable_mean: Tensor,
    *,
    beta: Positive = 0.1,
    delta_momentum: Momentum = 1.0,
    desirable_weight: ClassWeight = 1.0,
    undesirable_weight: ClassWeight = 1.0,
) -> UnpairedOutput:
    """Cross-entropy of a classifier with logit β·log-ratio − δ that separates desirable from undesirable completions
    (Section 4).

    Inputs (B,), log-probs summed over completion tokens; `desirable` bool. δ is half the mean reward of desirable plus half
    that of undesirable completions, over all training steps before this one (two scalars without gradient, 0 in the first
    step). The authors' code in TRL (`BCOTrainer`) takes one mean over both classes, which is the same where they are equally
    frequent, and includes the current micro-batch. `delta_momentum` is explained in `bco`.

    The trainer replaces a weight "auto" by a number (so that λ_D·n_D = λ_U·n_U, as in the paper, whose loss is the sum of the
    two classes' means). ValueError if a weight is still "auto". Rewards: β × log-ratio, without δ.
    """
    rewards = beta * (logps - ref_logps)
    logits = rewards - (desirable_mean + undesirable_mean) / 2
    weights = class_weights(desirable, desirable_weight, undesirable_weight, rewards.dtype)
    return UnpairedOutput(-weights * logsigmoid(logits.where(desirable, -logits)), rewards.detach())


def next_state(
    desirable_mean: Tensor,
    undesirable_mean: Tensor,
    desirable_count: Tensor,
    undesirable_count: Tensor,
    logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    *,
    beta: float,
    delta_momentum: float,
    **_,
) -> dict[str, Tensor]:
    """The mean reward and the number of examples of each class after a step. A step may have a single class."""
    rewards = beta * (logps - ref_logps)
    good = running_mean(desirable_mean, desirable_count, rewards[desirable], delta_momentum)
    bad = running_mean(undesirable_mean, undesirable_count, rewards[~desirable], delta_momentum)
    return dict(zip(STATE, (good[0], bad[0], good[1], bad[1]), strict=True))


def initial_value(*, desirable_weight: float | str, undesirable_weight: float | str, **_) -> float | None:
    """λ ln 2 if both weights are λ; with unequal weights it depends on the share of desirable examples."""
    weight = equal_weight(desirable_weight, undesirable_weight)
    return None if weight is None else weight * 0.6931471805599453
