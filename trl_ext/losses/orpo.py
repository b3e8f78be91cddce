"""ORPO: Odds Ratio Preference Optimization (Hong et al. 2024, arXiv:2403.07691)."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._hyperparameters import Positive
from trl_ext.losses._numerics import mean_logps
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−ℓ̄_w − β log σ(logit(e^ℓ̄_w) − logit(e^ℓ̄_l))"
PAPER = "arXiv:2403.07691"
REDUCTION = "log-probs averaged over completion tokens"
BETA_UNIT = "weight of the odds-ratio term relative to the likelihood (the paper's λ)"
WHEN = "You start from a base model and want supervised and preference training in one run, without a reference."


def orpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lens: Tensor,
    rejected_lens: Tensor,
    *,
    beta: Positive = 0.1,
) -> PairedOutput:
    """Negative log-likelihood of the chosen completion plus β × the logistic loss on the log odds ratio  (Eqs. 6 and 7).

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens. The odds are p/(1−p), with the geometric
    mean p of a completion's token probabilities. The loss reads no reference.

    The likelihood term is averaged over each chosen completion's tokens, then over examples, as in the paper's
    L_SFT. TRL's ORPO averages it over prompt and completion, and over all tokens of a micro-batch.
    Rewards: β × mean token log-prob.
    """
    chosen_mean = mean_logps(chosen_logps, chosen_lens)
    rejected_mean = mean_logps(rejected_logps, rejected_lens)
    losses = -chosen_mean - beta * logsigmoid(_log_odds(chosen_mean) - _log_odds(rejected_mean))
    return PairedOutput(losses, beta * chosen_mean.detach(), beta * rejected_mean.detach())


def _log_odds(log_prob: Tensor) -> Tensor:
    """log p − log(1 − p), limited to the odds of 1 − eps, so that it stays finite at p = 1, which float32 reaches for
    certain completions (TRL's odds become infinite and their gradient NaN)."""
    log_prob = log_prob.clamp(max=-torch.finfo(log_prob.dtype).eps)
    # One formula is enough: expm1 is accurate near 0, and far from 0 the sum is dominated by log p.
    return log_prob - torch.log(-torch.expm1(log_prob))
