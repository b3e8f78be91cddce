"""Reward shaping by hand."""

import pytest
import torch

from trl_ext.rl import rewards

NAN = float("nan")
LOGPS = torch.tensor([[-1.0, -2.0, -0.5, NAN], [-1.0, NAN, NAN, NAN], [NAN, -1.0, NAN, -3.0]])
REF_LOGPS = torch.tensor([[-1.5, -1.0, -0.5, NAN], [-3.0, NAN, NAN, NAN], [NAN, -2.0, NAN, -2.0]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1]])
SCORES = torch.tensor([1.0, -2.0, 3.0])


def test_the_score_goes_to_the_last_valid_token_and_the_kl_to_each():
    """d = (.5, −1, 0), (2), (1, −1), coefficient .1; what stands outside the mask is never read."""
    expected = [[-0.05, 0.1, 1.0, 0.0], [-2.2, 0.0, 0.0, 0.0], [0.0, -0.1, 0.0, 3.1]]
    torch.testing.assert_close(rewards.shape(SCORES, LOGPS, REF_LOGPS, MASK, 0.1), torch.tensor(expected))


def test_at_sequence_level_all_goes_to_the_last_valid_token():
    """Σd = −.5, 2, 0: ½(Σd)² = .125, 2, 0."""
    expected = [[0.0, 0.0, 0.9875, 0.0], [-2.2, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0]]
    found = rewards.shape(SCORES, LOGPS, REF_LOGPS, MASK, 0.1, "k2", "sequence")
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("mask", [MASK, MASK.bool(), MASK.float()], ids=["int", "bool", "float"])
def test_defaults_and_any_type_of_mask(mask):
    found = rewards.shape(SCORES, LOGPS, REF_LOGPS, mask)
    torch.testing.assert_close(found, rewards.shape(SCORES, LOGPS, REF_LOGPS, MASK, kl_coef=0.05, estimator="k1"))


def test_rewards_carry_no_gradient():
    logps = torch.zeros(1, 2, requires_grad=True)
    assert not rewards.shape(torch.ones(1), logps, torch.ones(1, 2), torch.ones(1, 2)).requires_grad


def test_a_completion_without_tokens_gets_nothing():
    found = rewards.shape(torch.ones(1), torch.ones(1, 3), torch.zeros(1, 3), torch.zeros(1, 3))
    assert not found.any()


def test_an_unknown_estimator_is_named():
    with pytest.raises(ValueError, match="no KL estimator 'k0': choose one of k1, k2, k3"):
        rewards.shape(SCORES, LOGPS, REF_LOGPS, MASK, estimator="k0")


def test_the_penalty_of_a_missing_end():
    is_ended = torch.tensor([True, False, True])
    torch.testing.assert_close(rewards.penalise_missing_eos(SCORES, is_ended, 1.5), torch.tensor([1.0, -3.5, 3.0]))
