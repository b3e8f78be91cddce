"""GRPO: rewards standardised within their group, for each `scale_rewards`, and TRL's lines on groups of equal size."""

import math

import pytest
import torch

from tests.rl.advantages.helpers import batch, numbers, random, scored, tokens
from trl_ext.rl import advantages

SCALES = pytest.mark.parametrize("scale", ["group", "batch", "none"])


def deviation(values):
    """With n − 1 in the denominator; 0 for a single number."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((x - mean) ** 2 for x in values) / max(len(values) - 1, 1))


@SCALES
def test_the_paper(scale):
    """(R_i − mean R)/(std R + 1e-4) over the scored completions of the prompt; of the batch, all scored completions."""
    tensors = batch()
    totals = [None if row is None else sum(row) for row in numbers(tensors)]
    expected = []
    for i, prompt in enumerate(tensors["groups"].tolist()):
        group = [totals[j] for j in scored(tensors, prompt)]
        scales = {
            "group": deviation(group) + 1e-4,
            "batch": deviation([x for x in totals if x is not None]) + 1e-4,
            "none": 1.0,
        }
        expected.append(None if totals[i] is None else (totals[i] - sum(group) / len(group)) / scales[scale])
    found = advantages.grpo(tensors["rewards"], tensors["mask"], tensors["groups"], scale_rewards=scale)
    torch.testing.assert_close(found, tokens(tensors, expected), rtol=1e-9, atol=1e-9)


def test_the_default_divides_by_the_groups_deviation():
    """Rewards 1 and 3: mean 2, deviation √2."""
    found = advantages.grpo(torch.tensor([[1.0], [3.0]]), torch.ones(2, 1), torch.zeros(2, dtype=torch.long))
    assert found[:, 0].tolist() == pytest.approx([-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4)])


@SCALES
def test_trls_lines(scale):
    """TRL's GRPOTrainer (1.16), with its `nanstd`, on rewards (P·G,) with NaN for a completion without a score."""
    from trl.trainer.utils import nanstd

    rewards = random(12)
    rewards[[1, 4, 5, 6]] = torch.nan  # of prompt 1 one of four has a score
    rewards[8:] = 0.7
    means = torch.nanmean(rewards.view(-1, 4), dim=1).repeat_interleave(4)
    expected = rewards - means
    if scale == "group":
        expected = expected / (nanstd(rewards.view(-1, 4), dim=1).repeat_interleave(4) + 1e-4)
    elif scale == "batch":
        expected = expected / (nanstd(rewards).expand_as(rewards) + 1e-4)
    found = advantages.grpo(
        rewards.unsqueeze(1), ~rewards.isnan().unsqueeze(1), torch.arange(12) // 4, scale_rewards=scale
    )
    torch.testing.assert_close(found.squeeze(1), torch.nan_to_num(expected, nan=0.0))


def test_an_unknown_scale():
    with pytest.raises(ValueError, match="There is no scale_rewards 'std': choose one of group, batch, none"):
        advantages.grpo(torch.ones(2, 1), torch.ones(2, 1), torch.zeros(2, dtype=torch.long), scale_rewards="std")
