"""FocalPO: −p^γ log p with p = σ(βh) (arXiv:2501.06645), written with Python's own numbers; its gradient; its limit γ = 0."""

import math

import pytest
import torch

from tests.losses.helpers import batch, read_by
from trl_ext import losses


@pytest.mark.parametrize("beta, gamma", [(0.1, 0.05), (1.0, 0.05), (1.0, 0.7), (0.5, 3.0)])
def test_values(beta, gamma):
    loss = losses.get("focalpo", beta=beta, focal_gamma=gamma)
    tensors = read_by(loss, batch(size=8))
    rows = zip(*(tensors[name].tolist() for name in loss.inputs), strict=True)
    p = [1 / (1 + math.exp(-beta * ((won - ref_won) - (lost - ref_lost)))) for won, lost, ref_won, ref_lost in rows]
    assert loss(**tensors).losses.tolist() == pytest.approx([-(x**gamma) * math.log(x) for x in p], rel=1e-12)
    assert loss.initial_value == pytest.approx(0.5**gamma * math.log(2))


def margin_gradient(gamma, margin):
    loss = losses.get("focalpo", beta=1.0, focal_gamma=gamma)
    chosen = torch.tensor([margin], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    loss(chosen_logps=chosen, rejected_logps=zero, ref_chosen_logps=zero, ref_rejected_logps=zero).losses.backward()
    return chosen.grad.item()


@pytest.mark.parametrize("margin", [-3.0, -0.2, 0.0, 1.0, 4.0])
def test_gradient_is_that_of_dpo_times_a_factor(margin):
    # d/dx [−p^γ log p] = −(1 − p) · p^γ (1 + γ log p)
    p = 1 / (1 + math.exp(-margin))
    assert margin_gradient(0.05, margin) == pytest.approx(-(1 - p) * p**0.05 * (1 + 0.05 * math.log(p)))
    assert margin_gradient(0.0, margin) == pytest.approx(-(1 - p))


def test_wrongly_ranked_pairs_have_less_of_the_gradient_than_in_dpo():
    shares = [margin_gradient(0.05, margin) / margin_gradient(0.0, margin) for margin in (-4.0, -1.0, 0.0, 1.0, 4.0)]
    assert shares == sorted(shares) and 0 < shares[0] < 0.7 < 0.99 < shares[-1] < 1


def test_the_sign_of_the_gradient_at_the_start():
    # 1 + γ log ½ changes its sign at γ = 1/ln 2 = 1.4427.
    assert margin_gradient(1.44, 0.0) < 0 < margin_gradient(1.45, 0.0)
