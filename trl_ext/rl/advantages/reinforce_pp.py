"""REINFORCE++: rewards to go, whitened over the whole batch (Hu et al. 2025, arXiv:2501.03262)."""

from collections.abc import Callable

import torch
from torch import Tensor

from trl_ext.rl.advantages.gae import gae
from trl_ext.rl.masked import whiten
from trl_ext.support.kinds import Share

FORMULA = "whiten(Σ_{s≥t} γ^(s−t) r_s)"
PAPER = "arXiv:2501.03262"
WHITENS = True


def reinforce_pp(
    rewards: Tensor, mask: Tensor, *, gamma: Share = 1.0, add_up: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """Σ_{s≥t} γ^(s−t)·r_s per token, whitened over all tokens of the batch; (B, C), 0 outside the mask and detached.

    With the KL in the reward, as in the paper, that of token s counts for the tokens up to s. No critic, no groups: one
    completion per prompt is enough. The batch's mean is the baseline.

    The variance has n − 1 in the denominator and 1e-8 added, as in verl. OpenRLHF, the authors' library, has n.

    Args:
        rewards: (B, C), per token.
        mask: (B, C), 1 on completion tokens; all 0 for a completion without a score.
        gamma: Discount per token. The gradient of a KL in the reward is exact only with 1.
        add_up: Sums a tensor over processes.
    """
    # In float64, so that the rounding of equal returns is not scaled up.
    returns, _ = gae(rewards.double(), torch.zeros_like(rewards, dtype=torch.float64), mask, gamma=gamma, lam=1.0)
    return whiten(returns, mask, add_up=add_up).to(rewards.dtype)
