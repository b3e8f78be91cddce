"""AlphaDPO: SimPO with a target margin for each pair (Wu et al. 2024, arXiv:2410.10148)."""

from torch import Tensor

from trl_ext.losses._hyperparameters import FlipProbability, Momentum, NonNegative, Positive
from trl_ext.losses._numerics import mean_logps, smoothed_logistic
from trl_ext.losses._outputs import PairedOutput
from trl_ext.losses._running import running_mean

FORMULA = "−log σ(β(ℓ̄_w − ℓ̄_l) − β(γ/β + αz)), z = (h̄ − mean h̄)/std h̄ without gradient"
PAPER = "arXiv:2410.10148"
COUPLED = True
REDUCTION = "log-probs averaged over completion tokens; mean and std moving averages over optimizer steps"
BETA_UNIT = "per nat per token"
WHEN = "As `simpo`, but pairs differ in how far apart they are: those already far apart get a larger target margin."
STATE = {"margin_mean": 0.0, "margin_std": 0.0, "steps": 0.0}

ROUNDING = 1e-4
"""Standard deviation in nats per token below which margins are rounding errors, as in the first step, and z is 0."""


def alpha_dpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lens: Tensor,
    rejected_lens: Tensor,
    margin_mean: Tensor,
    margin_std: Tensor,
    *,
    beta: Positive = 2.5,
    gamma_beta_ratio: NonNegative = 0.6,
    adaptive_alpha: NonNegative = 0.2,
    margin_momentum: Momentum = 0.9,
    label_smoothing: FlipProbability = 0.0,
) -> PairedOutput:
    """SimPO's loss whose target margin grows with the pair's own margin against the reference.

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens, of one whole optimizer step. h̄ is the margin of
    mean log-ratios, in nats per token. z is h̄ in standard deviations from its mean, both moving averages over steps, this one
    included. `adaptive_alpha` α = 0 is `simpo`. The defaults are the authors' for Llama-3-8B-Instruct; for Mistral-7B-Instruct
    they use γ/β = 0.15 and α = 0.05.

    The authors' moving averages start at 0, which makes z up to ten times as large in the first steps; here they start as
    plain means. z is 0 as long as the standard deviation is below 1e-4, as in the first step, where policy and reference are
    equal, and in steps of a single pair. Rewards: β × mean token log-prob, as in `simpo`.
    """
    chosen_mean = mean_logps(chosen_logps, chosen_lens)
    rejected_mean = mean_logps(rejected_logps, rejected_lens)
    ref_margin = mean_logps(ref_chosen_logps, chosen_lens) - mean_logps(ref_rejected_logps, rejected_lens)
    margin = chosen_mean - rejected_mean
    z = ((margin - ref_margin).detach() - margin_mean) / margin_std.clamp(min=ROUNDING)
    target = gamma_beta_ratio + adaptive_alpha * z * (margin_std > ROUNDING)
    losses = smoothed_logistic(beta * (margin - target), label_smoothing)
    return PairedOutput(losses, beta * chosen_mean.detach(), beta * rejected_mean.detach())


def next_state(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lens: Tensor,
    rejected_lens: Tensor,
    margin_mean: Tensor,
    margin_std: Tensor,
    steps: Tensor,
    *,
    margin_momentum: float,
    **_,
) -> dict[str, Tensor]:
    """Mean and standard deviation of h̄ after a step, and the number of steps."""
    chosen = mean_logps(chosen_logps - ref_chosen_logps, chosen_lens)
    rejected = mean_logps(rejected_logps - ref_rejected_logps, rejected_lens)
    margin = chosen - rejected
    std = margin.std(correction=min(1, len(margin) - 1))
    mean, _count = running_mean(margin_mean, steps, margin.mean()[None], margin_momentum)
    std, steps = running_mean(margin_std, steps, std[None], margin_momentum)
    return {"margin_mean": mean, "margin_std": std, "steps": steps}
