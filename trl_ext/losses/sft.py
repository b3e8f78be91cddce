"""SFT: maximum likelihood of the chosen completion (as in Ouyang et al. 2022, arXiv:2203.02155, step 1)."""

from torch import Tensor, zeros_like

from trl_ext.losses._numerics import mean_logps
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−ℓ̄_w"
PAPER = "arXiv:2203.02155"
REDUCTION = "log-probs averaged over each completion's tokens, then over examples"


def sft(chosen_logps: Tensor, chosen_lens: Tensor) -> PairedOutput:
    """Negative mean token log-prob of the chosen completion, in nats per token.

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens. Every example counts the same
    whatever its length, so that a step cut into parts has the gradient of the whole. TRL 1.16's `sft` loss
    instead averages over all tokens of a micro-batch: long completions weigh more, and the value depends on
    how the step is cut. Both agree where all completions are equally long.

    It states no reward: both rewards are 0, so margin and accuracy are too.
    """
    losses = -mean_logps(chosen_logps, chosen_lens)
    return PairedOutput(losses, zeros_like(losses), zeros_like(losses))
