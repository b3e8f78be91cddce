"""GAE against its definition as a sum, and whitening."""

import pytest
import torch

from trl_ext.rl import advantages, masked


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(rewards, values, gamma, lam):
    """Â_t = Σ_l (γλ)^l·δ_{t+l} of one completion without padding (Eq. 16)."""
    next_values = torch.cat([values[1:], values.new_zeros(1)])
    delta = rewards + gamma * next_values - values
    n = len(rewards)
    return torch.stack([sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, n)) for t in range(n)])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_gae_is_its_definition_on_the_valid_tokens(gamma, lam):
    """Rows of 6, 3, 1 and 0 tokens, one with a gap; junk and NaN elsewhere."""
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0] * 6, [1, 0, 0, 1, 1, 0]]).bool()
    rewards, values = random(5, 6), random(5, 6, seed=1)
    rewards[~mask], values[~mask] = torch.nan, 1e6
    found, returns = advantages.gae(rewards, values, mask, gamma, lam)
    for row in range(5):
        valid = mask[row]
        if valid.any():
            expected = by_definition(rewards[row][valid], values[row][valid], gamma, lam)
            torch.testing.assert_close(found[row][valid], expected)
            torch.testing.assert_close(returns[row][valid], expected + values[row][valid])
    assert not found[~mask].any() and not returns[~mask].any()


def test_with_lambda_one_returns_are_the_rewards_to_go_whatever_the_critic_says():
    rewards, mask = random(2, 5), torch.ones(2, 5)
    _, returns = advantages.gae(rewards, random(2, 5, seed=1), mask, lam=1.0)
    torch.testing.assert_close(returns, rewards.flip(1).cumsum(1).flip(1))


def test_gae_carries_no_gradient():
    values = torch.zeros(1, 2, requires_grad=True)
    assert not any(x.requires_grad for x in advantages.gae(torch.ones(1, 2), values, torch.ones(1, 2)))


def test_whitening_uses_the_unbiased_variance_of_the_valid_tokens():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    values = random(2, 3)
    valid = mask.bool()
    values[~valid] = torch.nan
    whitened = advantages.whiten(values, mask)
    expected = (values[valid] - values[valid].mean()) / values[valid].std(unbiased=True)
    torch.testing.assert_close(whitened[valid], expected, rtol=1e-6, atol=1e-6)
    assert not whitened[~valid].any()
    kept = advantages.whiten(values, mask, shift_mean=False)
    torch.testing.assert_close(kept[valid], expected + values[valid].mean(), rtol=1e-6, atol=1e-6)


def test_a_single_token_is_whitened_to_zero():
    assert advantages.whiten(torch.tensor([[3.0, 5.0]]), torch.tensor([[1, 0]])).tolist() == [[0.0, 0.0]]


def test_whitening_over_processes_is_whitening_of_the_whole_batch():
    """`add_up` adds what the other process sends: its count and sum, then its squares around the common mean."""
    values, mask = random(4, 3), random(4, 3, seed=1) > -0.5
    others = values[2:][mask[2:]]
    sent = iter(
        [
            torch.stack([mask[2:].sum().double(), others.sum()]),
            (others - values[mask].mean()).square().sum(),
        ]
    )
    mine = advantages.whiten(values[:2], mask[:2], add_up=lambda x: x + next(sent))
    torch.testing.assert_close(mine, advantages.whiten(values, mask)[:2])


def test_the_last_valid_token():
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1]])
    expected = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]]).bool()
    assert torch.equal(masked.is_last(mask), expected)
