"""Isotropic Gaussians: the closed form, torch's own KL, numerical gradients, and expectations by quadrature."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from trl_ext.rl import gaussian, kl

K = 5


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def policies(seed=0):
    """Four pairs of Gaussians in K dimensions: means and deviations of policy and reference."""
    return (
        random(4, K, seed=seed),
        random(4, seed=seed + 1).exp(),
        random(4, K, seed=seed + 2),
        random(4, seed=3).exp(),
    )


def normal(mean, deviation):
    return Independent(Normal(mean, torch.as_tensor(deviation, dtype=mean.dtype).unsqueeze(-1).expand(mean.shape)), 1)


def grid(mean, deviation):
    """Points and weights of the expectation over N(mean, deviation²·I) in two dimensions, by Gauss–Hermite quadrature."""
    points, weights = (torch.tensor(x) for x in np.polynomial.hermite.hermgauss(60))
    samples = torch.stack(torch.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2)
    return mean + math.sqrt(2) * deviation * samples, torch.outer(weights, weights).flatten() / math.pi


def test_the_closed_form_by_hand():
    """k = 2, σ₁ = 1, σ₂ = 2, ‖μ₁ − μ₂‖² = 9 + 16: 2·(ln 2 + 1/8 − ½) + 25/8."""
    found = gaussian.kl(torch.tensor([3.0, 4.0]), 1.0, torch.zeros(2), 2.0)
    assert found.item() == pytest.approx(2 * (math.log(2) + 1 / 8 - 1 / 2) + 25 / 8)


def test_the_closed_form_is_torchs():
    ours, ours_std, ref, ref_std = policies()
    expected = kl_divergence(normal(ours, ours_std), normal(ref, ref_std))
    torch.testing.assert_close(gaussian.kl(ours, ours_std, ref, ref_std), expected)
    same = gaussian.kl(ours, ours_std, ours, ours_std)
    torch.testing.assert_close(same, torch.zeros_like(same))


def test_the_gradient_in_the_mean_is_the_numerical_one():
    ours, ours_std, ref, ref_std = policies(seed=5)
    found, step = gaussian.kl_gradient(ours, ref, ref_std), 1e-5
    for dimension in range(K):
        moved = torch.zeros(K, dtype=torch.float64)
        moved[dimension] = step
        up, down = (gaussian.kl(ours + sign * moved, ours_std, ref, ref_std) for sign in (1, -1))
        torch.testing.assert_close(found[:, dimension], (up - down) / (2 * step), rtol=1e-6, atol=1e-8)


def test_the_log_ratio_is_that_of_torchs_densities():
    ours, ours_std, ref, ref_std = policies(seed=9)
    samples = random(4, K, seed=20)
    expected = normal(ours, ours_std).log_prob(samples) - normal(ref, ref_std).log_prob(samples)
    torch.testing.assert_close(gaussian.log_ratio(samples, ours, ours_std, ref, ref_std), expected)


def test_the_log_ratio_of_many_dimensions_keeps_its_digits_in_float32():
    """The two densities are near −23,000 here, of which float32 keeps 1e-3; their difference is below 1."""
    k = 16_384
    mean, ref_mean = torch.zeros(k), torch.full((k,), 0.005)
    samples = torch.randn(k, generator=torch.Generator().manual_seed(0))
    exact = gaussian.log_ratio(samples.double(), mean.double(), 1.0, ref_mean.double(), 1.0)
    assert gaussian.log_ratio(samples, mean, 1.0, ref_mean, 1.0).item() == pytest.approx(exact.item(), abs=1e-5)


@pytest.mark.parametrize("deviations", [(1.0, 1.0), (0.8, 1.1)])
def test_expectations_of_value_and_gradient_of_the_estimators(deviations):
    """In two dimensions, with the samples held fixed: k1 gives no gradient, k2 that of D, k3 that of the forward KL."""
    std, ref_std = deviations
    mean = torch.tensor([0.4, -0.3], dtype=torch.float64, requires_grad=True)
    ref_mean = torch.tensor([-0.1, 0.2], dtype=torch.float64)
    samples, weights = grid(mean.detach(), std)
    true = gaussian.kl(mean, std, ref_mean, ref_std)
    reverse = gaussian.kl_gradient(mean.detach(), ref_mean, ref_std)
    forward = (mean.detach() - ref_mean) / std**2
    second_moment = (weights * gaussian.log_ratio(samples, mean.detach(), std, ref_mean, ref_std) ** 2).sum()
    values = {"k1": true, "k2": second_moment / 2, "k3": true, "k3+": true}
    gradients = {"k1": 0 * reverse, "k2": reverse, "k3": forward, "k3+": reverse}
    for name in kl.ESTIMATORS:
        expectation = (weights * gaussian.estimate(name, samples, mean, std, ref_mean, ref_std)).sum()
        assert expectation.item() == pytest.approx(values[name].item(), rel=1e-7), name
        (found,) = torch.autograd.grad(expectation, mean)
        torch.testing.assert_close(found, gradients[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_as_a_reward_only_k1_gives_the_gradient_of_the_kl(name):
    """E[k(x)·∇log π(x)] with k held fixed: ∇D for k1, and something else for k2 and k3."""
    mean = torch.tensor([0.9, -0.3], dtype=torch.float64, requires_grad=True)
    ref_mean, std, ref_std = torch.tensor([-0.1, 0.2], dtype=torch.float64), 0.8, 1.1
    samples, weights = grid(mean.detach(), std)
    held = gaussian.estimate(name, samples, mean.detach(), std, ref_mean, ref_std)
    (found,) = torch.autograd.grad((weights * held * normal(mean, std).log_prob(samples)).sum(), mean)
    reverse = gaussian.kl_gradient(mean.detach(), ref_mean, ref_std)
    error = ((found - reverse).norm() / reverse.norm()).item()
    assert error < 1e-8 if name == "k1" else error > 0.1


def test_an_unknown_estimator():
    with pytest.raises(ValueError, match="There is no KL estimator 'k4': choose one of k1"):
        gaussian.estimate("k4", torch.zeros(1, 2), torch.zeros(2), 1.0, torch.zeros(2), 1.0)
