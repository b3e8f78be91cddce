"""Dr. GRPO: rewards minus their group's mean, undivided."""

import torch

from tests.rl.advantages.helpers import batch, numbers, scored, tokens
from trl_ext.rl import advantages


def test_the_paper():
    tensors = batch()
    totals = [None if row is None else sum(row) for row in numbers(tensors)]
    expected = []
    for total, prompt in zip(totals, tensors["groups"].tolist(), strict=True):
        group = [totals[j] for j in scored(tensors, prompt)]
        expected.append(None if total is None else total - sum(group) / len(group))
    found = advantages.dr_grpo(tensors["rewards"], tensors["mask"], tensors["groups"])
    torch.testing.assert_close(found, tokens(tensors, expected))


def test_it_is_rloo_times_what_the_mean_contains_of_the_completion():
    """With G = 3 completions: (G − 1)/G."""
    rewards, groups = torch.tensor([[1.0], [2.0], [6.0]]), torch.zeros(3, dtype=torch.long)
    found = advantages.dr_grpo(rewards, torch.ones(3, 1), groups)
    torch.testing.assert_close(found, 2 / 3 * advantages.rloo(rewards, torch.ones(3, 1), groups))
    torch.testing.assert_close(found, advantages.grpo(rewards, torch.ones(3, 1), groups, scale_rewards="none"))
