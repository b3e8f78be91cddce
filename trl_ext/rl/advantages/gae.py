"""GAE: Generalised Advantage Estimation with a critic (Schulman et al. 2016, arXiv:1506.02438)."""

import torch
from torch import Tensor

from trl_ext.rl.masked import apply
from trl_ext.support.kinds import Share

FORMULA = "Σ_{s≥t} (γλ)^(s−t) δ_s, δ_t = r_t + γV_{t+1} − V_t"
PAPER = "arXiv:1506.02438"


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: Share = 1.0, lam: Share = 0.95) -> tuple[Tensor, Tensor]:
    """Advantages and returns, (B, C) each, 0 outside the mask and detached  (Eq. 16).

    Â_t = δ_t + γλ·Â_{t+1}, δ_t = r_t + γ·V_{t+1} − V_t, with V and Â 0 after the last valid token; returns Â + V, the
    target of the critic. Tokens outside the mask are skipped: the successor of a valid token is the next valid one.

    Args:
        rewards: (B, C), per token.
        values: (B, C), the critic's estimate of the return from each token on, before that token is chosen.
        mask: (B, C), 1 on completion tokens.
        gamma: Discount per token. The gradient of a KL in the reward is exact only with 1.
        lam: λ. 1 gives reward-to-go minus the value (no bias from the critic), 0 gives one-step differences.
    """
    rewards, values, is_valid = apply(rewards.detach(), mask), apply(values.detach(), mask), mask.bool()
    advantages = torch.zeros_like(values)
    next_value = next_advantage = values.new_zeros(values.shape[0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(is_valid[:, t], delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(is_valid[:, t], values[:, t], next_value)
        advantages[:, t] = next_advantage
    advantages = apply(advantages, mask)
    return advantages, advantages + values
