"""REINFORCE++: rewards to go, whitened over the batch."""

import pytest
import torch

from tests.rl.advantages.helpers import batch, numbers, tokens, whitened
from trl_ext.rl import advantages, rewards


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_paper(gamma):
    tensors = batch()
    to_go = [
        None if row is None else [sum(gamma ** (s - t) * row[s] for s in range(t, len(row))) for t in range(len(row))]
        for row in numbers(tensors)
    ]
    found = advantages.reinforce_pp(tensors["rewards"], tensors["mask"], gamma=gamma)
    torch.testing.assert_close(found, tokens(tensors, whitened(to_go)))


def test_before_whitening_a_token_is_charged_for_the_kl_from_it_on():
    """Score 3, KL 1, 2, 4 per token with coefficient 0.5: 3 − 0.5·7, 3 − 0.5·6, 3 − 0.5·4; mean 1/6."""
    kl = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    mask = torch.ones(1, 3)
    shaped = rewards.shape(torch.tensor([3.0]), kl, torch.zeros_like(kl), mask, kl_coef=0.5, estimator="k1")
    found = advantages.reinforce_pp(shaped, mask)
    centred = torch.tensor([[-0.5, 0.0, 1.0]], dtype=torch.float64) - 1 / 6
    torch.testing.assert_close(found, centred / centred.square().sum().div(2).sqrt(), rtol=1e-6, atol=1e-7)
