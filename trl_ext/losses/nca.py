"""NCA: Noise Contrastive Alignment, pairwise form (Chen et al. 2024, arXiv:2402.05369)."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._hyperparameters import Positive
from trl_ext.losses._outputs import PairedOutput

FORMULA = "−log σ(βΔ_w) − ½ log σ(−βΔ_w) − ½ log σ(−βΔ_l)"
PAPER = "arXiv:2402.05369"
ALIASES = ("nca_pair",)
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio"
WHEN = "`dpo` makes your chosen completions less likely: this loss also sets the level of each reward."


def nca(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: Positive = 0.1,
) -> PairedOutput:
    """Noise-contrastive estimation of each reward, with preferences as rewards (1, 0)  (Section 4.1).

    Inputs (B,), log-probs summed over completion tokens. Unlike DPO, the loss determines the level of the rewards and
    not only their difference, so the likelihood of chosen completions does not fall with that of rejected ones. The
    paper trains with β (its α) = 0.01. Rewards: β × log-ratio.
    """
    chosen_rewards = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (rejected_logps - ref_rejected_logps)
    contrast = 0.5 * logsigmoid(-chosen_rewards) + 0.5 * logsigmoid(-rejected_rewards)
    losses = -logsigmoid(chosen_rewards) - contrast
    return PairedOutput(losses, chosen_rewards.detach(), rejected_rewards.detach())


def initial_value(**_) -> float:
    """2 ln 2."""
    return 1.3862943611198906
