"""SimPER: preference alignment by perplexity, without hyperparameters (Xiao et al. 2025, arXiv:2502.00883)."""

from torch import Tensor

from trl_ext.losses._numerics import mean_logps
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−e^ℓ̄_w + e^ℓ̄_l"
PAPER = "arXiv:2502.00883"
REDUCTION = "log-probs averaged over completion tokens"
WHEN = "You want no hyperparameter to tune and no reference; the learning rate alone decides how far the model moves."


def simper(chosen_logps: Tensor, rejected_logps: Tensor, chosen_lens: Tensor, rejected_lens: Tensor) -> PairedOutput:
    """Inverse perplexity of the rejected completion minus that of the chosen one.

    Inputs (B,), log-probs summed over completion tokens, lengths in tokens. The inverse perplexity e^ℓ̄ is the geometric
    mean of a completion's token probabilities, so the loss is between −1 and 1. It reads no reference. The gradient of a
    completion is multiplied by its inverse perplexity: unlikely completions have little effect, and a rejected completion
    loses its effect as it becomes unlikely.

    Rewards: the inverse perplexities.
    """
    chosen = mean_logps(chosen_logps, chosen_lens).exp()
    rejected = mean_logps(rejected_logps, rejected_lens).exp()
    return PairedOutput(rejected - chosen, chosen.detach(), rejected.detach())
