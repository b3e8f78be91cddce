"""A batch with everything that an advantage can meet, as tensors and as plain numbers."""

import math

import torch

from trl_ext.rl import advantages

LENGTHS = (5, 3, 1, 4, 2, 0, 4, 5, 0, 3, 2, 1)
"""Tokens of each completion; two completions have no score, so that all their tokens are masked. The second token of the first
completion is masked, too, as one that a tool wrote is."""
GROUPS = (0, 1, 0, 2, 1, 0, 3, 3, 2, 1, 0, 3)
"""Their prompts, not adjacent. Of prompt 2 one completion has a score. Prompt 3 has equal rewards."""
SIZE = 5


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(seed=0, junk=math.nan):
    """The tensors of `advantages.TENSORS`, with junk outside the mask."""
    mask = torch.arange(SIZE) < torch.tensor(LENGTHS).unsqueeze(1)
    mask[0, 1] = False
    groups = torch.tensor(GROUPS)
    rewards = random(len(LENGTHS), SIZE, seed=seed)
    for i, (length, prompt) in enumerate(zip(LENGTHS, GROUPS, strict=True)):
        if prompt == 3:
            rewards[i, length - 1] += 1.5 - rewards[i, :length].sum()
    values, greedy = random(len(LENGTHS), SIZE, seed=seed + 1), random(4, seed=seed + 2)[groups]
    rewards[~mask], values[~mask] = junk, junk
    return {"rewards": rewards, "values": values, "mask": mask, "groups": groups, "greedy_rewards": greedy}


def inputs(name, tensors):
    """The tensors that an advantage reads, in its order."""
    return [tensors[tensor] for tensor in advantages.describe(name).inputs]


def of(name, tensors, **settings):
    """The advantages (B, C); GAE's returns are left out."""
    found = advantages.get(name)(*inputs(name, tensors), **settings)
    return found[0] if isinstance(found, tuple) else found


def numbers(tensors):
    """Rewards of each completion's tokens, as lists; `None` for a completion without a score."""
    return [row[valid].tolist() or None for row, valid in zip(tensors["rewards"], tensors["mask"].bool(), strict=True)]


def scored(tensors, prompt):
    """The completions of a prompt that have a score."""
    rows = numbers(tensors)
    return [i for i, group in enumerate(tensors["groups"].tolist()) if group == prompt and rows[i] is not None]


def tokens(tensors, per_completion):
    """A tensor (B, C) of lists with a number per token, or of one number for all tokens of a completion."""
    found = torch.zeros_like(tensors["values"])
    for i, (value, valid) in enumerate(zip(per_completion, tensors["mask"].bool(), strict=True)):
        if value is not None:
            found[i, valid] = torch.tensor(value, dtype=torch.float64)
    return found


def whitened(per_token):
    """Lists of numbers, `None` for a completion without tokens: minus their mean, over their deviation (n − 1)."""
    flat = [x for row in per_token if row is not None for x in row]
    mean = math.fsum(flat) / len(flat)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in flat) / (len(flat) - 1) + 1e-8)
    return [None if row is None else [(x - mean) / deviation for x in row] for row in per_token]
