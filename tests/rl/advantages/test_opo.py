"""OPO: the baseline is the mean of rewards weighted by length, the optimal one for gradients whose norm² grows so."""

import pytest
import torch

from tests.rl.advantages.helpers import batch, numbers, scored, tokens
from trl_ext.rl import advantages


def test_the_paper():
    tensors = batch()
    totals = [None if row is None else sum(row) for row in numbers(tensors)]
    lengths = [len(row or []) for row in numbers(tensors)]
    expected = []
    for total, prompt in zip(totals, tensors["groups"].tolist(), strict=True):
        group = scored(tensors, prompt)
        baseline = sum(lengths[j] * totals[j] for j in group) / sum(lengths[j] for j in group)
        expected.append(None if total is None else total - baseline)
    found = advantages.opo(tensors["rewards"], tensors["mask"], tensors["groups"])
    torch.testing.assert_close(found, tokens(tensors, expected))


def test_the_baseline_has_the_least_variance():
    """Σ_i |y_i|·(R_i − b)², the variance if the gradient's norm² is |y_i|, is least at the baseline."""
    lengths, scores = [1, 4, 2], [0.3, -1.0, 2.0]
    mask = torch.arange(4) < torch.tensor(lengths).unsqueeze(1)
    rewards = torch.zeros(3, 4)
    rewards[:, 0] = torch.tensor(scores)
    found = advantages.opo(rewards, mask, torch.zeros(3, dtype=torch.long))
    baseline = scores[0] - found[0, 0].item()

    def variance(b):
        return sum(n * (r - b) ** 2 for n, r in zip(lengths, scores, strict=True))

    assert variance(baseline) < min(variance(baseline + 0.01), variance(baseline - 0.01))


def test_completions_of_equal_length_have_the_plain_mean():
    rewards, groups = torch.tensor([[1.0, 0.0], [5.0, 0.0]]), torch.zeros(2, dtype=torch.long)
    found = advantages.opo(rewards, torch.ones(2, 2), groups)
    assert found[:, 0].tolist() == pytest.approx([-2.0, 2.0])


def test_a_completion_that_is_left_out_of_the_loss_has_weight_0():
    """It has no gradient, and the baseline with the least variance weighs rewards by the squared norms of gradients."""
    lengths, scores = [1, 4, 2], [0.3, -1.0, 2.0]
    mask = torch.arange(4) < torch.tensor(lengths).unsqueeze(1)
    rewards = torch.zeros(3, 4)
    rewards[:, 0] = torch.tensor(scores)
    left_out = torch.tensor([True, False, False])
    found = advantages.opo(rewards, mask, torch.zeros(3, dtype=torch.long), left_out=left_out)
    baseline = (4 * -1.0 + 2 * 2.0) / 6
    assert found[1:, 0].tolist() == pytest.approx([-1.0 - baseline, 2.0 - baseline])
