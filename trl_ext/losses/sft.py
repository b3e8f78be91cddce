"""SFT: maximum likelihood of the chosen completion (as in Ouyang et al. 2022, arXiv:2203.02155, step 1)."""

from torch import Tensor, zeros_like

from trl_ext.losses._numerics import mean_logps
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−ℓ̄_w"
PAPER = "arXiv:2203.02155"
REDUCTION = "log-probs averaged over each completion's tokens, then over examples"
WHEN = "The chosen completions should only be imitated. It is mostly used in a mix, to keep them likely."


def sft(chosen_logps: Tensor, chosen_lens: Tensor) -> PairedOutput:
    """Negative mean token log-prob of the chosen completion, in nats per token.

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens. Every example has the same weight,
    whatever its length, so the gradient does not depend on how a step is cut. TRL 1.16's `sft` loss averages over all
    tokens of a micro-batch instead: long completions have a larger weight, and the value depends on how the step is
    cut. Both agree if all completions have the same length.

    The loss defines no reward: both rewards are 0, and so are margin and accuracy.
    """
    losses = -mean_logps(chosen_logps, chosen_lens)
    return PairedOutput(losses, zeros_like(losses), zeros_like(losses))
