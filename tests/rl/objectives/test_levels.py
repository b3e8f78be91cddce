"""Ratios at each level by hand, and laws of every surrogate."""

import math

import pytest
import torch

from tests.rl.objectives.helpers import LENGTHS, micro_batch
from trl_ext.rl import objectives

SURROGATES = pytest.mark.parametrize("name", objectives.SURROGATES)
HAVE_LEVELS = pytest.mark.parametrize("name", ["clipped", "cispo", "sapo"])


def gradient(losses, logps):
    return torch.autograd.grad(losses.sum(), logps)[0]


def ratio_losses(level, **settings):
    """log π/π_old = log 2, log 8 with advantage −1, far from any clipping: the losses are ρ."""
    logps, mask = torch.tensor([[2.0, 8.0, 5.0]]).log(), torch.tensor([[1, 1, 0]])
    return objectives.policy_loss(logps, torch.zeros(1, 3), -torch.ones(1, 3), mask, level=level, **settings)


def test_the_ratio_of_each_level():
    """Per token 2 and 8; the geometric mean 4; of the completion 16, half of it on each token."""
    torch.testing.assert_close(ratio_losses("token").losses, torch.tensor([[2.0, 8.0, 0.0]]))
    torch.testing.assert_close(ratio_losses("sequence").losses, torch.tensor([[4.0, 4.0, 0.0]]))
    torch.testing.assert_close(ratio_losses("sequence_sum").losses, torch.tensor([[8.0, 8.0, 0.0]]))


def test_two_sided_clipping_limits_the_loss_of_a_negative_advantage():
    """δ = 3: the ratio 8 counts as 3 and gives no gradient; the ratio 2 is below it."""
    losses, is_clipped = ratio_losses("token", delta=3.0)
    torch.testing.assert_close(losses, torch.tensor([[2.0, 3.0, 0.0]]))
    assert is_clipped.tolist() == [[False, True, False]]
    losses, is_clipped = ratio_losses("sequence", delta=3.0)
    torch.testing.assert_close(losses, torch.tensor([[3.0, 3.0, 0.0]]))
    assert is_clipped.tolist() == [[True, True, False]]


def test_an_unknown_level():
    with pytest.raises(ValueError, match="no importance sampling level 'word': choose one of token, sequence, sequen"):
        ratio_losses("word")


def test_cispo_limits_the_weight_and_keeps_the_gradient():
    """ρ = 2 and 8 with limit 5 and advantage 1: gradients −2 and −5, losses times log π."""
    logps = torch.tensor([[2.0, 8.0]]).log().requires_grad_()
    found = objectives.cispo(logps, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2), epsilon_high=5.0)
    torch.testing.assert_close(found.losses, torch.tensor([[-2 * math.log(2), -5 * math.log(8)]]))
    torch.testing.assert_close(gradient(found.losses, logps), torch.tensor([[-2.0, -5.0]]))
    assert found.is_clipped.tolist() == [[False, True]]


def test_sapo_is_flat_far_from_one():
    """The gradient in log ρ is −4ρσ(x)σ(−x)·Â with x = τ(ρ − 1), τ = 1 for Â > 0 and 1.05 otherwise."""
    ratios = torch.tensor([[0.5, 1.0, 3.0, 3.0]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, 1.0, 1.0, -1.0]], dtype=torch.float64)
    logps = ratios.log().requires_grad_()
    found = objectives.sapo(logps, torch.zeros(1, 4), advantages, torch.ones(1, 4))
    x = torch.tensor([[1.0, 1.0, 1.0, 1.05]], dtype=torch.float64) * (ratios - 1)
    torch.testing.assert_close(
        gradient(found.losses, logps), -4 * ratios * torch.sigmoid(x) * torch.sigmoid(-x) * advantages
    )
    assert not found.is_clipped.any()


@pytest.mark.parametrize(("advantage", "k", "rate"), [(1.0, 2.0, 3.0), (-1.0, 3.0, 2.0)])
def test_vespo_weighs_by_the_ratio_of_the_completion(advantage, k, rate):
    """w = 1.5·0.8 = 1.2: φ = e^(λ − 1.2λ)·1.2^k multiplies the gradient of every token."""
    logps = torch.tensor([[1.5, 0.8]], dtype=torch.float64).log().requires_grad_()
    found = objectives.vespo(logps, torch.zeros(1, 2), torch.full((1, 2), advantage), torch.ones(1, 2))
    phi = math.exp(rate - 1.2 * rate) * 1.2**k
    expected = torch.full((1, 2), -phi * advantage, dtype=torch.float64)
    torch.testing.assert_close(gradient(found.losses, logps), expected, rtol=1e-6, atol=1e-6)


@SURROGATES
def test_on_fresh_samples_every_surrogate_has_the_gradient_of_the_score_function(name):
    logps, _, _, advantages, mask = micro_batch()
    logps.requires_grad_()
    found = objectives.SURROGATES[name](logps, logps.detach(), advantages, mask)
    torch.testing.assert_close(gradient(found.losses, logps), -advantages * mask)
    assert not found.is_clipped.any()


@HAVE_LEVELS
@pytest.mark.parametrize("level", objectives.LEVELS)
def test_on_fresh_samples_every_level_has_the_same_gradient_for_each_completion(name, level):
    """So the aggregation, a weight per completion, does not change it either."""
    logps, _, _, advantages, mask = micro_batch()
    logps.requires_grad_()
    found = objectives.SURROGATES[name](logps, logps.detach(), advantages, mask, level=level)
    torch.testing.assert_close(gradient(found.losses, logps), -advantages * mask)


@SURROGATES
def test_one_advantage_per_completion_is_that_of_each_of_its_tokens(name):
    """As many completions as tokens, so that a wrong broadcast would not fail."""
    logps, old_logps, _, advantages, mask = (x[:, :4] for x in micro_batch())
    expected = objectives.SURROGATES[name](logps, old_logps, advantages, mask)
    found = objectives.SURROGATES[name](logps, old_logps, advantages[:, 0], mask)
    torch.testing.assert_close(found.losses, expected.losses, rtol=0, atol=0)
    assert torch.equal(found.is_clipped, expected.is_clipped)


@SURROGATES
def test_values_outside_the_mask_reach_neither_loss_nor_gradient(name):
    logps, old_logps, _, advantages, mask = micro_batch()
    clean = objectives.SURROGATES[name](logps, old_logps, advantages, mask)
    dirty = [x.masked_fill(~mask, math.nan) for x in (logps, old_logps, advantages)]
    dirty[0].requires_grad_()
    found = objectives.SURROGATES[name](*dirty, mask)
    torch.testing.assert_close(found.losses, clean.losses, rtol=0, atol=0)
    assert torch.equal(found.is_clipped, clean.is_clipped)
    pull = gradient(found.losses, dirty[0])
    assert pull.isfinite().all() and not pull[~mask].any() and not found.losses[~mask].any()


@SURROGATES
def test_the_rollout_carries_no_gradient(name):
    logps, old_logps, _, advantages, mask = (x.clone() for x in micro_batch())
    for tensor in (logps, old_logps, advantages):
        tensor.requires_grad_()
    losses = objectives.SURROGATES[name](logps, old_logps, advantages, mask).losses
    found = torch.autograd.grad(losses.sum(), [logps, old_logps, advantages], allow_unused=True)
    assert found[0].any() and found[1] is None and found[2] is None


@SURROGATES
@pytest.mark.parametrize("distance", [-200.0, 200.0])
def test_a_policy_far_from_the_rollout_has_finite_losses_and_gradients(name, distance):
    _, old_logps, _, advantages, mask = (x.float() if x.is_floating_point() else x for x in micro_batch())
    logps = (old_logps + distance).requires_grad_()
    for settings in ({"level": level} for level in objectives.LEVELS) if name != "vespo" else ({},):
        losses = objectives.SURROGATES[name](logps, old_logps, advantages, mask, **settings).losses
        assert losses.isfinite().all() and gradient(losses, logps).isfinite().all()


@HAVE_LEVELS
def test_a_completion_without_tokens_is_zero_at_every_level(name):
    logps, old_logps, _, advantages, mask = micro_batch()
    mask = mask & torch.tensor([True, False, True, True]).unsqueeze(1)
    for level in objectives.LEVELS:
        losses = objectives.SURROGATES[name](logps, old_logps, advantages, mask, level=level).losses
        assert losses.isfinite().all() and not losses[1].any() and len(LENGTHS) == len(losses)
