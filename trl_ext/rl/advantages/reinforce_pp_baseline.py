"""REINFORCE++-Baseline: the group's mean subtracted, then whitened over the whole batch (Hu et al. 2025, arXiv:2501.03262)."""

from collections.abc import Callable

from torch import Tensor

from trl_ext.rl.advantages._groups import Groups
from trl_ext.rl.masked import whiten

FORMULA = "whiten(R − mean(R))"
PAPER = "arXiv:2501.03262"
WHITENS = True


def reinforce_pp_baseline(
    rewards: Tensor,
    mask: Tensor,
    groups: Tensor,
    *,
    left_out: Tensor | None = None,
    add_up: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """R_i − mean R on every token of completion i, whitened over all tokens; (B, C), 0 outside the mask and detached.

    One deviation divides the advantages of all prompts, unlike in `grpo`. It is that of tokens, so a long completion
    counts more. The variance has n − 1 in the denominator and 1e-8 added, as in verl. The paper places the KL in the
    loss, with k2. A completion that is left out of the loss counts in the mean of its group, and its tokens are not among those
    that are whitened.

    Args:
        rewards: (B, C), per token. R is their sum, a KL in the reward included.
        mask: (B, C), 1 on completion tokens; all 0 for a completion without a score.
        groups: (B,) int, number of each completion's prompt, from 0, the same on all processes.
        left_out: Bool (B,), completions whose tokens are not in the loss (`mask_truncated_completions`); none by default.
        add_up: Sums a tensor over processes.
    """
    group = Groups(rewards, mask, groups, add_up)
    tokens = mask if left_out is None else mask * ~left_out.unsqueeze(-1)
    return whiten(group.on_tokens(group.totals - group.means).double(), tokens, add_up=add_up).to(rewards.dtype)
