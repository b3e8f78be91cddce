"""Dr. GRPO: GRPO done right, without division by the deviation (Liu et al. 2025, arXiv:2503.20783)."""

from collections.abc import Callable

from torch import Tensor

from trl_ext.rl.advantages._groups import Groups

FORMULA = "R − mean(R)"
PAPER = "arXiv:2503.20783"
AGGREGATION = "constant"


def dr_grpo(
    rewards: Tensor, mask: Tensor, groups: Tensor, *, add_up: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """R_i − mean R on every token of completion i, (B, C), 0 outside the mask and detached.

    `grpo` with `scale_rewards: none`, and (G−1)/G times `rloo`: the mean contains R_i itself. So a KL in
    the loss counts G/(G−1) times its coefficient; one in the reward is scaled along. The paper divides the sum over tokens by a
    constant length (`loss_aggregation: constant`).

    Args:
        rewards: (B, C), per token. R is their sum, a KL in the reward included.
        mask: (B, C), 1 on completion tokens; all 0 for a completion without a score.
        groups: (B,) int, number of each completion's prompt, from 0, the same on all processes.
        add_up: Sums a tensor over processes.
    """
    group = Groups(rewards, mask, groups, add_up)
    return group.on_tokens(group.totals - group.means)
