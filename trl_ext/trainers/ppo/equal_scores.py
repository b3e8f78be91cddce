"""Count the prompts whose completions have equal scores, so that comparing them teaches nothing."""

import torch
from torch import Tensor

ZERO = 1e-8
"""TRL takes a deviation up to this one for 0."""


def share_of_ties(scores: Tensor) -> float:
    """Share of prompts whose completions all have the same score.

    Args:
        scores: (prompts, completions of each); NaN for completions without a score. A prompt with fewer than two scores
            counts.
    """
    highest = scores.nan_to_num(nan=-torch.inf).amax(1)
    lowest = scores.nan_to_num(nan=torch.inf).amin(1)
    return (highest <= lowest).float().mean().item()


def share_without_deviation(rewards: Tensor) -> float:
    """TRL's `frac_reward_zero_std`: share of rows of `rewards` whose standard deviation is 0.

    A row with a single reward besides NaN has no deviation, and TRL does not count it, unless rows have one column.

    Args:
        rewards: What the advantage compares, (prompts, completions of each), or all in one row where it divides by the deviation
            of all; NaN for completions without a score.
    """
    if rewards.size(1) == 1:
        return 1.0
    counts = (~rewards.isnan()).sum(1)
    squares = (rewards - rewards.nanmean(1, keepdim=True)).square().nansum(1)
    deviations = (squares / (counts - 1).clamp(min=1)).sqrt()
    return ((counts > 1) & (deviations <= ZERO)).float().mean().item()
