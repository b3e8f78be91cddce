"""RLOO: REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv:2402.14740)."""

from collections.abc import Callable

from torch import Tensor

from trl_ext.rl.advantages._groups import Groups

FORMULA = "R − (mean R of the prompt's other completions)"
PAPER = "arXiv:2402.14740"
AGGREGATION = "sum"
LEVEL = "sequence_sum"


def rloo(rewards: Tensor, mask: Tensor, groups: Tensor, *, add_up: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """R_i − 1/(G−1)·Σ_{j≠i} R_j on every token of completion i, (B, C), 0 outside the mask and detached.

    The baseline does not depend on completion i, so the gradient is unbiased. G/(G−1) times `dr_grpo`.

    As in TRL's RLOOTrainer, completions without a score count neither in G nor in the sum, and the only scored completion
    of a prompt has advantage 0.

    Args:
        rewards: (B, C), per token. R is their sum, a KL in the reward included.
        mask: (B, C), 1 on completion tokens; all 0 for a completion without a score.
        groups: (B,) int, number of each completion's prompt, from 0, the same on all processes.
        add_up: Sums a tensor over processes.
    """
    group = Groups(rewards, mask, groups, add_up)
    leave_one_out = group.counts / (group.counts - 1).clamp(min=1)
    return group.on_tokens((group.totals - group.means) * leave_one_out)
