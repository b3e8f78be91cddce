"""OPO: on-policy optimisation with the optimal baseline (Hao et al. 2025, arXiv:2505.23585)."""

from collections.abc import Callable

from torch import Tensor

from trl_ext.rl.advantages._groups import Groups

FORMULA = "R − Σ|y|R / Σ|y|"
PAPER = "arXiv:2505.23585"


def opo(
    rewards: Tensor,
    mask: Tensor,
    groups: Tensor,
    *,
    left_out: Tensor | None = None,
    add_up: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """R_i − Σ_j |y_j|·R_j / Σ_j |y_j| on every token of completion i, (B, C), 0 outside the mask and detached.

    The baseline with the least variance weighs each reward by the squared norm of its completion's gradient. The paper
    takes that norm as proportional to the length, which gives the mean weighted by length. |y_j| are tokens. The
    sum contains R_i, so the gradient has a bias that vanishes as the group grows.

    Completions without a score count in neither sum, and the only scored completion of a prompt has advantage 0. A completion
    that is left out of the loss has no gradient, so its weight is 0 too.

    Args:
        rewards: (B, C), per token. R is their sum, a KL in the reward included.
        mask: (B, C), 1 on completion tokens; all 0 for a completion without a score.
        groups: (B,) int, number of each completion's prompt, from 0, the same on all processes.
        left_out: Bool (B,), completions whose tokens are not in the loss (`mask_truncated_completions`); none by default.
        add_up: Sums a tensor over processes.
    """
    group = Groups(rewards, mask, groups, add_up)
    lengths = mask.bool().sum(-1).to(group.totals.dtype)
    if left_out is not None:
        lengths = lengths.masked_fill(left_out, 0)
    baselines = group.sums(lengths * group.totals) / group.sums(lengths).clamp(min=1)
    return group.on_tokens(group.totals - baselines)
