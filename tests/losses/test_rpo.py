"""RPO against the Bernoulli divergences of its papers, and its limits: the target, no preference, DPO."""

import math

import pytest
import torch

from tests.losses.helpers import batch, read_by
from trl_ext import losses


def divergence(p, q):
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def sigma(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("distance", "equation"),
    [
        ("backward_kl", lambda implicit, target: divergence(sigma(target), sigma(implicit))),
        ("forward_kl", lambda implicit, target: divergence(sigma(implicit), sigma(target))),
        ("squared", lambda implicit, target: (implicit - target) ** 2),
    ],
)
def test_the_equations(distance, equation):
    loss = losses.get("rpo", beta=0.4, eta=1.7, distance=distance)
    tensors = read_by(loss, batch())
    out = loss(**tensors)
    ratios = [(tensors[f"{s}_logps"] - tensors[f"ref_{s}_logps"]).tolist() for s in ("chosen", "rejected")]
    for i, (chosen, rejected) in enumerate(zip(*ratios, strict=True)):
        expected = equation(0.4 * (chosen - rejected), 1.7 * tensors["margin"][i].item())
        assert out.losses[i].item() == pytest.approx(expected, abs=1e-12)
    assert out.chosen_rewards.tolist() == pytest.approx([0.4 * ratio for ratio in ratios[0]])


@pytest.mark.parametrize("distance", ["backward_kl", "forward_kl", "squared"])
def test_at_the_reference_and_at_the_target(distance):
    loss = losses.get("rpo", beta=0.5, eta=2.0, distance=distance)
    tensors = read_by(loss, batch(policy_is_reference=True))
    p = [sigma(2.0 * m) for m in tensors["margin"].tolist()]
    known = {
        "backward_kl": [divergence(each, 0.5) for each in p],
        "forward_kl": [divergence(0.5, each) for each in p],
        "squared": [4 * m**2 for m in tensors["margin"].tolist()],
    }
    assert loss(**tensors).losses.tolist() == pytest.approx(known[distance])
    assert loss.initial_value is None and loss.columns == ("margin",)
    # βh = ηm: no loss, no gradient
    at_target = tensors | {"chosen_logps": (tensors["chosen_logps"] + 4 * tensors["margin"]).detach().requires_grad_()}
    value = loss(**at_target).losses
    (gradient,) = torch.autograd.grad(value.sum(), at_target["chosen_logps"])
    assert value.abs().max() < 1e-12 and gradient.abs().max() < 1e-12


def test_certain_margins_give_dpo_and_constant_ones_ipo():
    rpo, dpo = losses.get("rpo", beta=0.3), losses.get("dpo", beta=0.3)
    tensors = batch() | {"margin": torch.full((6,), 1e3, dtype=torch.float64)}
    torch.testing.assert_close(rpo(**read_by(rpo, tensors)).losses, dpo(**read_by(dpo, tensors)).losses)
    squared, ipo = losses.get("rpo", beta=0.3, distance="squared"), losses.get("ipo", beta=0.3, average=False)
    tensors = batch() | {"margin": torch.full((6,), 0.5, dtype=torch.float64)}
    expected = 0.3**2 * ipo(**read_by(ipo, tensors)).losses  # (βh − ½)² = β²(h − 1/(2β))²
    torch.testing.assert_close(squared(**read_by(squared, tensors)).losses, expected)
