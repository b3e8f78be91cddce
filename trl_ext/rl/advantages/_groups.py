"""Compute sums over the completions of each prompt, wherever they are: a prompt's completions may be on several processes."""

from collections.abc import Callable

import torch
from torch import Tensor

from trl_ext.rl.masked import apply, total


class Groups:
    """The completions of each prompt that have a score. A completion has none if its mask is 0 everywhere.

    In float64: the mean of equal rewards then equals them but for 1e-16, which a division by their deviation plus 1e-4 does not
    make visible. In float32 rewards of 100 would differ from their mean by 1e-5.

    Attributes:
        totals: (B,), R of each completion: its rewards added up.
        is_scored: bool (B,).
        counts: (B,), completions with a score of the same prompt.
        means: (B,), mean R of these; 0 for a prompt without any.

    Args:
        rewards: (B, C), per token; values outside the mask are never read.
        mask: (B, C), 1 on completion tokens.
        groups: (B,) int, number of each completion's prompt, from 0, the same on all processes.
        add_up: Sums a tensor over processes.

    Raises:
        ValueError: A prompt's number is below 0.
    """

    def __init__(self, rewards: Tensor, mask: Tensor, groups: Tensor, add_up: Callable[[Tensor], Tensor]) -> None:
        if len(groups) and groups.amin() < 0:
            raise ValueError(f"The number of a prompt is {groups.amin().item()}, but `groups` are counted from 0.")
        self._mask, self._dtype, self._add_up = mask, rewards.dtype, add_up
        self.totals = total(rewards.detach().double(), mask)
        self.is_scored = mask.bool().any(-1)
        # The sum over processes of their largest numbers is at least the largest of all.
        size = int(add_up((groups.amax() + 1 if len(groups) else groups.new_zeros(())).double()).item())
        self._membership = groups.unsqueeze(1) == torch.arange(size, device=groups.device)
        self.counts = self.sums(self.is_scored.to(self.totals.dtype))
        self.means = self.sums(self.totals) / self.counts.clamp(min=1)

    def sums(self, values: Tensor) -> Tensor:
        """Sum (B,) of `values` (B,) over the completions with a score of the same prompt."""
        # Adding up masked columns gives the same bits each time; `index_add_` does not on a GPU.
        scored = apply(values, self.is_scored).unsqueeze(1)
        per_prompt = self._add_up(apply(scored.expand(-1, self._membership.size(1)), self._membership).sum(0))
        return apply(per_prompt.expand(len(values), -1), self._membership).sum(1)

    def deviations(self) -> Tensor:
        """Standard deviation (B,) of R in each completion's group, with n − 1 in the denominator; 0 for a single one."""
        squares = self.sums((self.totals - self.means).square())
        return (squares / (self.counts - 1).clamp(min=1)).sqrt()

    def on_tokens(self, advantages: Tensor) -> Tensor:
        """One advantage per completion (B,) on each of its tokens: (B, C), 0 outside the mask, in the precision of the rewards."""
        return apply(advantages.unsqueeze(-1).expand(self._mask.shape), self._mask).to(self._dtype)
