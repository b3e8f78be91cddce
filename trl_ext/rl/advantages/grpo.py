"""GRPO: Group Relative Policy Optimization (Shao et al. 2024, arXiv:2402.03300)."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from trl_ext.rl.advantages._groups import Groups
from trl_ext.rl.masked import moments

FORMULA = "(R − mean(R)) / (std(R) + 1e-4)"
PAPER = "arXiv:2402.03300"
AGGREGATION = "sequence"

EPSILON = 1e-4
"""Added to the deviation, as in TRL."""


def grpo(
    rewards: Tensor,
    mask: Tensor,
    groups: Tensor,
    *,
    scale_rewards: Literal["group", "batch", "none"] = "group",
    add_up: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """(R_i − mean R)/(std R + 1e-4) on every token of completion i, (B, C), 0 outside the mask and detached  (§4.1.2).

    The deviation has n − 1 in the denominator, as in TRL's GRPOTrainer. Where all rewards of a group are equal, the
    advantages are 0. Completions without a score count neither in the mean nor in the deviation.

    k1 in the reward is divided by the deviation too. That changes the gradient and not the optimum, where all rewards of a
    prompt, KL included, are equal. A KL in the loss is not divided, which moves the optimum (`trl_ext.rl.step_table`).

    Args:
        rewards: (B, C), per token. R is their sum, a KL in the reward included.
        mask: (B, C), 1 on completion tokens; all 0 for a completion without a score.
        groups: (B,) int, number of each completion's prompt, from 0, the same on all processes.
        scale_rewards: Divide by the deviation of R in the `group` (the paper), in the whole `batch` (arXiv:2508.08221), or
            by `none` (Dr. GRPO, arXiv:2503.20783, where the division favours prompts on which rewards hardly differ).
        add_up: Sums a tensor over processes.

    Raises:
        ValueError: `scale_rewards` is unknown.
    """
    if scale_rewards not in ("group", "batch", "none"):
        raise ValueError(f"There is no scale_rewards {scale_rewards!r}: choose one of group, batch, none.")
    group = Groups(rewards, mask, groups, add_up)
    centred = group.totals - group.means
    if scale_rewards == "group":
        centred = centred / (group.deviations() + EPSILON)
    elif scale_rewards == "batch":
        _, variance = moments(group.totals, group.is_scored, add_up)
        centred = centred / (variance.sqrt() + EPSILON)
    return group.on_tokens(centred)
