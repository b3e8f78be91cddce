"""RLOO: each completion's reward minus the mean of its siblings', and TRL's lines on groups of equal size."""

import torch

from tests.rl.advantages.helpers import batch, numbers, random, scored, tokens
from trl_ext.rl import advantages


def test_the_paper():
    """R_i − 1/(k − 1)·Σ_{j≠i} R_j over the k completions of a prompt that have a score."""
    tensors = batch()
    totals = [None if row is None else sum(row) for row in numbers(tensors)]
    expected = []
    for i, prompt in enumerate(tensors["groups"].tolist()):
        others = [totals[j] for j in scored(tensors, prompt) if j != i]
        alone = totals[i] is None or not others
        expected.append(None if totals[i] is None else 0.0 if alone else totals[i] - sum(others) / len(others))
    found = advantages.rloo(tensors["rewards"], tensors["mask"], tensors["groups"])
    torch.testing.assert_close(found, tokens(tensors, expected))


def test_by_hand():
    """Rewards 1, 2, 6 of a prompt: 1 − 4, 2 − 3.5, 6 − 1.5."""
    found = advantages.rloo(torch.tensor([[1.0], [2.0], [6.0]]), torch.ones(3, 1), torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(found, torch.tensor([[-3.0], [-1.5], [4.5]]))


def test_trls_lines():
    """TRL's RLOOTrainer (1.16) on rewards (P·G,) with NaN for a completion without a score."""
    rewards = random(12)
    rewards[[1, 4, 5, 6]] = torch.nan  # of prompt 1 one of four has a score
    grouped = rewards.view(-1, 4)
    baselines = (grouped.nansum(1, keepdim=True) - grouped) / ((~grouped.isnan()).sum(1, keepdim=True) - 1)
    expected = torch.nan_to_num(rewards - baselines.view(-1), nan=0.0, posinf=0.0, neginf=0.0)
    found = advantages.rloo(rewards.unsqueeze(1), ~rewards.isnan().unsqueeze(1), torch.arange(12) // 4)
    torch.testing.assert_close(found.squeeze(1), expected)


def test_the_baseline_is_independent_of_the_completion():
    """A change of R_0 by 1 changes its own advantage by 1 and that of the other two by −½."""
    mask, groups, rewards = torch.ones(3, 1), torch.zeros(3, dtype=torch.long), random(3, 1)
    changed = rewards + torch.tensor([[1.0], [0.0], [0.0]])
    difference = advantages.rloo(changed, mask, groups) - advantages.rloo(rewards, mask, groups)
    torch.testing.assert_close(difference, torch.tensor([[1.0], [-0.5], [-0.5]], dtype=torch.float64))
