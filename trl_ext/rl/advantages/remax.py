"""ReMax: REINFORCE with the greedy completion's reward as the baseline (Li et al. 2023, arXiv:2310.10505)."""

import torch
from torch import Tensor

from trl_ext.rl.advantages.gae import gae
from trl_ext.rl.masked import apply

FORMULA = "Σ_{s≥t} r_s − R of the greedy completion"
PAPER = "arXiv:2310.10505"


def remax(rewards: Tensor, mask: Tensor, greedy_rewards: Tensor) -> Tensor:
    """Σ_{s≥t} r_s − R(greedy) per token, (B, C), 0 outside the mask and detached.

    The greedy completion of the prompt does not depend on the sampled one, so the gradient is unbiased. One sampled
    completion per prompt is enough; the greedy one costs a second generation.

    A completion whose greedy completion has no score has no baseline, and advantage 0.

    Args:
        rewards: (B, C), per token. Without a KL in the reward, the sum is R for every token, as in the paper.
        mask: (B, C), 1 on completion tokens; all 0 for a completion without a score.
        greedy_rewards: (B,), total reward of the greedy completion of each completion's prompt; NaN without a score.
    """
    returns, _ = gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=1.0)
    baselines = greedy_rewards.detach().to(returns.dtype).unsqueeze(-1)
    return apply(torch.where(baselines.isnan(), 0, returns - baselines), mask)
