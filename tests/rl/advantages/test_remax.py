"""ReMax: rewards to go minus the total reward of the greedy completion."""

import torch

from tests.rl.advantages.helpers import batch, numbers, tokens
from trl_ext.rl import advantages


def test_the_paper():
    tensors = batch()
    expected = [
        None if row is None else [sum(row[t:]) - greedy for t in range(len(row))]
        for row, greedy in zip(numbers(tensors), tensors["greedy_rewards"].tolist(), strict=True)
    ]
    found = advantages.remax(tensors["rewards"], tensors["mask"], tensors["greedy_rewards"])
    torch.testing.assert_close(found, tokens(tensors, expected))


def test_without_a_kl_every_token_has_the_difference_of_the_scores():
    """Score 2 on the last token, 0.5 of the greedy completion."""
    found = advantages.remax(torch.tensor([[0.0, 0.0, 2.0]]), torch.ones(1, 3), torch.tensor([0.5]))
    assert found.tolist() == [[1.5, 1.5, 1.5]]


def test_without_a_score_of_the_greedy_completion_there_is_nothing_to_learn():
    rewards, greedy = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([torch.nan, 1.0])
    found = advantages.remax(rewards, torch.ones(2, 2), greedy)
    assert found.tolist() == [[0.0, 0.0], [2.0, 1.0]]
