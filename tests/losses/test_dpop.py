"""DPOP against the equation of arXiv:2402.13228, written with Python's own numbers."""

import math

import pytest
import torch

from tests.losses.helpers import batch, read_by
from trl_ext import losses


def equation(won, lost, ref_won, ref_lost, beta, penalty):
    """−log σ(β(log π_w/ref_w − log π_l/ref_l − λ max(0, log ref_w/π_w)))."""
    margin = beta * ((won - ref_won) - (lost - ref_lost) - penalty * max(0.0, ref_won - won))
    return math.log1p(math.exp(-margin)) if margin > 0 else -margin + math.log1p(math.exp(margin))


@pytest.mark.parametrize("beta, penalty", [(0.3, 50.0), (0.1, 5.0), (1.0, 0.5)])
def test_values(beta, penalty):
    loss = losses.get("dpop", beta=beta, dpop_lambda=penalty)
    tensors = read_by(loss, batch(size=8))
    expected = [equation(*row, beta, penalty) for row in zip(*(tensors[n].tolist() for n in loss.inputs), strict=True)]
    assert loss(**tensors).losses.tolist() == pytest.approx(expected, rel=1e-12)
    log_ratios = tensors["chosen_logps"] - tensors["ref_chosen_logps"]
    assert (log_ratios < 0).any() and (log_ratios > 0).any()  # both sides of the maximum


def test_without_a_loss_of_likelihood_it_is_dpo():
    dpop, dpo = losses.get("dpop", beta=0.2), losses.get("dpo", beta=0.2)
    tensors = read_by(dpop, batch())
    tensors["chosen_logps"] = tensors["ref_chosen_logps"] + 0.5
    torch.testing.assert_close(dpop(**tensors).losses, dpo(**tensors).losses)
    free = losses.get("dpop", beta=0.2, dpop_lambda=0)
    torch.testing.assert_close(free(**read_by(free, batch())).losses, dpo(**read_by(dpo, batch())).losses)


def test_a_chosen_completion_that_lost_likelihood_has_1_plus_lambda_times_the_gradient():
    # With the same margin inside the sigmoid, d/dℓ_w is (1 + λ) times d/dℓ_l.
    loss = losses.get("dpop", beta=0.3, dpop_lambda=4.0)
    chosen = torch.tensor([-10.5], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-13.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-10.0], dtype=torch.float64)
    loss(
        chosen_logps=chosen, rejected_logps=rejected, ref_chosen_logps=reference, ref_rejected_logps=reference
    ).losses.backward()
    assert chosen.grad.item() == pytest.approx(-5 * rejected.grad.item())
