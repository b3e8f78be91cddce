"""Select preference pairs from scored completions."""

import torch
from torch import Tensor


def best_and_worst(scores: Tensor, num_generations: int) -> tuple[Tensor, Tensor]:
    """The completions with the highest and the lowest score of each prompt; the first one among equals.

    For two completions this is the pair of Guo et al. (arXiv:2402.04792), the scores standing in for an annotator.

    Args:
        scores: (B,), NaN for a completion without a score; the completions of a prompt are adjacent.
        num_generations: G completions per prompt.

    Returns:
        Their indices, (P, 2) with P = B/G, the better one first; and whether it is better, bool (P,): false if all scores
        are equal or fewer than two completions have one.
    """
    grouped = scores.view(-1, num_generations)
    best = grouped.masked_fill(grouped.isnan(), -torch.inf).max(dim=1)
    worst = grouped.masked_fill(grouped.isnan(), torch.inf).min(dim=1)
    start = torch.arange(0, len(scores), num_generations, device=scores.device)
    return torch.stack([start + best.indices, start + worst.indices], dim=1), best.values > worst.values
