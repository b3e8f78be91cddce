"""Clipped losses and the KL term by hand, and at limits."""

import math

import pytest
import torch

from trl_ext.rl import kl, objectives


def grad(losses, inputs):
    return torch.autograd.grad(losses.sum(), inputs)[0]


def test_the_policy_loss_takes_the_worse_of_two():
    """ρ = 1.5, .5, 1.5, .5, 1.1 with advantages 2, 2, −2, −2, 2, clip .2: the gain is capped, the loss is not."""
    logps = torch.tensor([[1.5, 0.5, 1.5, 0.5, 1.1, 7.0]]).log().requires_grad_()
    advantages = torch.tensor([[2.0, 2.0, -2.0, -2.0, 2.0, 1.0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    losses, is_clipped = objectives.policy_loss(logps, torch.zeros(1, 6), advantages, mask)
    torch.testing.assert_close(losses, torch.tensor([[-2.4, -1.0, 3.0, 1.6, -2.2, 0.0]]))
    assert is_clipped.tolist() == [[True, False, False, True, False, False]]
    torch.testing.assert_close(grad(losses, logps), torch.tensor([[0.0, -1.0, 3.0, 0.0, -2.2, 0.0]]))


def test_the_upper_clip_can_be_wider():
    logps = torch.tensor([[1.5, 0.5]]).log()
    losses, _ = objectives.policy_loss(
        logps, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), torch.ones(1, 2), epsilon=0.2, epsilon_high=0.4
    )
    torch.testing.assert_close(losses, torch.tensor([[-1.4, 0.8]]))


def test_on_fresh_samples_the_policy_gradient_is_that_of_the_score_function():
    logps = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    advantages = torch.tensor([[0.7, -0.3]])
    losses, is_clipped = objectives.policy_loss(logps, logps.detach(), advantages, torch.ones(1, 2))
    torch.testing.assert_close(grad(losses, logps), -advantages)
    assert not is_clipped.any()


def test_a_policy_far_from_the_rollout_has_finite_losses():
    logps = torch.tensor([[100.0, -100.0, 100.0, -100.0]], requires_grad=True)
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    losses, _ = objectives.policy_loss(logps, torch.zeros(1, 4), advantages, torch.ones(1, 4))
    assert losses.isfinite().all() and grad(losses, logps).isfinite().all()


def test_the_value_loss_takes_the_worse_of_two():
    """V = 1, 1, 0, returns 2, 0, 0, old values .5, .5, .3, clip .2: clipped values .7, .7, .1."""
    values = torch.tensor([[1.0, 1.0, 0.0, 5.0]], requires_grad=True)
    old_values, returns = torch.tensor([[0.5, 0.5, 0.3, 0.0]]), torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    losses, is_clipped = objectives.value_loss(values, old_values, returns, mask)
    torch.testing.assert_close(losses, torch.tensor([[0.5 * 1.3**2, 0.5, 0.5 * 0.1**2, 0.0]]))
    assert is_clipped.tolist() == [[True, False, True, False]]
    torch.testing.assert_close(grad(losses, values), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    plain, is_clipped = objectives.value_loss(values, old_values, returns, mask, epsilon=None)
    torch.testing.assert_close(plain, torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
    assert not is_clipped.any()


@pytest.mark.parametrize("name", ["policy", "value", "token", "sequence"])
def test_what_stands_outside_the_mask_reaches_neither_loss_nor_gradient(name):
    mask = torch.tensor([[1, 1, 0]])
    other = [torch.tensor([[-1.0, -2.0, math.nan]]) * scale for scale in (1.0, 0.5)]
    policy = torch.tensor([[-1.5, -0.5, math.nan]], requires_grad=True)
    losses = {
        "policy": lambda: objectives.policy_loss(policy, *other, mask).losses,
        "value": lambda: objectives.value_loss(policy, *other, mask).losses,
        "token": lambda: objectives.kl_loss(policy, other[0], mask, estimator="k3", level="token", old_logps=other[1]),
        "sequence": lambda: objectives.kl_loss(policy, other[0], mask, old_logps=other[1]),
    }[name]()
    assert losses.isfinite().all()
    gradient = grad(losses, policy)
    assert gradient.isfinite().all() and gradient[0, 2] == 0 and gradient[0, :2].any()


def test_the_kl_loss_is_summed_over_each_completion():
    """d = (.5, −1), (2): token k2 is .125 + .5 and 2, sequence k2 is ½·.25 and 2."""
    logps = torch.tensor([[-1.0, -2.0], [-1.0, 0.0]])
    ref_logps, mask = torch.tensor([[-1.5, -1.0], [-3.0, 9.0]]), torch.tensor([[1, 1], [1, 0]])
    token = objectives.kl_loss(logps, ref_logps, mask, level="token")
    torch.testing.assert_close(token, torch.tensor([0.625, 2.0]))
    torch.testing.assert_close(objectives.kl_loss(logps, ref_logps, mask), torch.tensor([0.125, 2.0]))


def test_stale_rollouts_are_weighted_without_gradient():
    """log π/π_old = (log 2, log 3): weights 2 and 3 per token, 6 for the completion."""
    logps = torch.tensor([[2.0, 3.0]]).log().requires_grad_()
    old_logps, ref_logps, mask = torch.zeros(1, 2), torch.tensor([[0.1, 0.2]]), torch.ones(1, 2)
    d = logps.detach() - ref_logps
    token = objectives.kl_loss(logps, ref_logps, mask, level="token", old_logps=old_logps)
    torch.testing.assert_close(grad(token, logps), torch.tensor([[2.0, 3.0]]) * d)
    whole = objectives.kl_loss(logps, ref_logps, mask, old_logps=old_logps)
    torch.testing.assert_close(grad(whole, logps), (6 * d.sum()).expand(1, 2))


def test_fresh_rollouts_have_weight_one():
    logps, ref_logps = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-0.3, -2.5]])
    for estimator in kl.ESTIMATORS:
        settings = {"estimator": estimator, "level": "token"}
        fresh = objectives.kl_loss(logps, ref_logps, torch.ones(1, 2), old_logps=logps, **settings)
        torch.testing.assert_close(fresh, objectives.kl_loss(logps, ref_logps, torch.ones(1, 2), **settings))


def test_the_weights_are_those_of_completions_or_tokens_that_count():
    """log π/π_old = (log 2, log 3), (log 5, masked), nothing: 6, 5 and no completion; 2, 3, 5 of tokens."""
    logps = torch.tensor([[2.0, 3.0], [5.0, math.nan], [7.0, 7.0]]).log().requires_grad_()
    mask = torch.tensor([[1, 1], [1, 0], [0, 0]])
    weights, weighs = objectives.kl_weights(logps, torch.zeros(3, 2), mask, level="sequence")
    assert weighs.tolist() == [[True], [True], [False]] and not weights.requires_grad
    torch.testing.assert_close(weights[weighs], torch.tensor([6.0, 5.0]))
    weights, weighs = objectives.kl_weights(logps, torch.zeros(3, 2), mask, level="token")
    torch.testing.assert_close(weights[weighs], torch.tensor([2.0, 3.0, 5.0]))
