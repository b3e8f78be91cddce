"""REINFORCE++-Baseline: the group's mean subtracted, then whitened over the tokens of the batch."""

import torch

from tests.rl.advantages.helpers import batch, numbers, scored, tokens, whitened
from trl_ext.rl import advantages


def test_the_paper():
    tensors = batch()
    rows = numbers(tensors)
    centred = []
    for row, prompt in zip(rows, tensors["groups"].tolist(), strict=True):
        group = [sum(rows[j]) for j in scored(tensors, prompt)]
        centred.append(None if row is None else [sum(row) - sum(group) / len(group)] * len(row))
    found = advantages.reinforce_pp_baseline(tensors["rewards"], tensors["mask"], tensors["groups"])
    torch.testing.assert_close(found, tokens(tensors, whitened(centred)))


def test_one_deviation_divides_all_prompts():
    """Prompts with rewards 0, 1 and 0, 10: the ratio of their advantages stays 10, unlike in GRPO."""
    rewards, groups = torch.tensor([[0.0], [1.0], [0.0], [10.0]]), torch.tensor([0, 0, 1, 1])
    found = advantages.reinforce_pp_baseline(rewards, torch.ones(4, 1), groups)
    torch.testing.assert_close(found[3] / found[1], torch.tensor([10.0]))


def test_a_completion_that_is_left_out_of_the_loss_counts_in_the_mean_alone():
    rewards = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0], [0.0, 2.0]])
    mask = torch.tensor([[1, 1], [1, 0], [1, 0], [1, 1]])
    left_out = torch.tensor([False, False, True, False])
    found = advantages.reinforce_pp_baseline(rewards, mask, torch.tensor([0, 0, 0, 0]), left_out=left_out)
    # The mean of all four is 2. Kept tokens: two of −2, one of −1, two of 0.
    kept = torch.tensor([-2.0, -2.0, -1.0, 0.0, 0.0])
    expected = (kept - kept.mean()) / (kept.var() + 1e-8).sqrt()
    torch.testing.assert_close(found[[0, 0, 1, 3, 3], [0, 1, 0, 0, 1]], expected)
    assert not found[2].any()
