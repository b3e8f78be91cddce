"""Estimators against Gaussian closed forms, Schulman's table, and at log-ratios where exp() overflows."""

import math

import numpy
import pytest
import torch

from tests.rl.helpers import gradient, language_and_policies
from trl_ext.rl import kl

ESTIMATORS = pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "k3+"])


def gaussian_logp(x, mean, deviation=1.0):
    return -0.5 * ((x - mean) / deviation) ** 2 - math.log(deviation)


def expectation(function, mean, deviation):
    """E over N(mean, deviation²) of a polynomial times exp(linear), by Gauss–Hermite quadrature."""
    nodes, weights = numpy.polynomial.hermite_e.hermegauss(80)
    x = mean.detach() + deviation * torch.tensor(nodes)
    return (torch.tensor(weights) / math.sqrt(2 * math.pi) * function(x)).sum()


def test_definitions():
    d = torch.tensor([-1.3, 0.0, 0.4, 2.0], dtype=torch.float64)
    ref_logps = torch.tensor([-0.2, -1.0, -3.0, -2.5], dtype=torch.float64)
    torch.testing.assert_close(kl.k1(ref_logps + d, ref_logps), d)
    torch.testing.assert_close(kl.k2(ref_logps + d, ref_logps), d**2 / 2)
    torch.testing.assert_close(kl.k3(ref_logps + d, ref_logps), torch.exp(-d) - 1 + d)
    assert list(kl.ESTIMATORS.items()) == [("k1", kl.k1), ("k2", kl.k2), ("k3", kl.k3), ("k3+", kl.k3_plus)]


@ESTIMATORS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ratio", [-100.0, 100.0])
def test_extreme_log_ratios_keep_a_finite_value_and_a_pull_towards_the_reference(estimator, dtype, ratio):
    logps = torch.tensor([ratio], dtype=dtype, requires_grad=True)
    value = kl.ESTIMATORS[estimator](logps, torch.zeros(1, dtype=dtype))
    (pull,) = torch.autograd.grad(value.sum(), logps)
    assert value.isfinite().all() and pull.isfinite().all()
    expected = {"k1": 1.0, "k2": ratio, "k3": 1.0 if ratio > 0 else 1 - math.exp(kl.LARGEST_EXPONENT)}.get(
        estimator, ratio
    )
    assert pull.item() == pytest.approx(expected, rel=1e-2)


def test_beyond_the_bound_k3_goes_on_as_its_tangent():
    d = torch.linspace(-30, -10, 4001, dtype=torch.float64, requires_grad=True)
    values = kl.k3(d, torch.zeros_like(d))
    (slopes,) = torch.autograd.grad(values.sum(), d)
    plain = torch.exp(-d) - 1 + d
    inside = -d <= kl.LARGEST_EXPONENT
    torch.testing.assert_close(values[inside], plain[inside])
    assert (slopes[~inside] == slopes[~inside][0]).all()
    # value and gradient belong together on both sides: differences of the one are the mean of the other
    steps = values.diff() / (d[1] - d[0])
    torch.testing.assert_close(steps, (slopes[1:] + slopes[:-1]) / 2, rtol=1e-4, atol=0)


def test_k3_is_accurate_where_policy_and_reference_nearly_agree():
    d = torch.tensor([1e-3, -1e-3, 3e-4], dtype=torch.float32)
    exact = torch.expm1(-d.double()) + d.double()
    torch.testing.assert_close(kl.k3(d, torch.zeros(3)).double(), exact, rtol=5e-3, atol=0)


@pytest.mark.parametrize(
    ("mu", "std_k1", "bias_k2", "std_k2", "std_k3"), [(0.1, 20, 0.002, 1.42, 1.42), (1, 2, 0.25, 1.73, 1.7)]
)
def test_monte_carlo_agrees_with_schulmans_table(mu, std_k1, bias_k2, std_k2, std_k3):
    """Bias and standard deviation over the true KL μ²/2 of N(μ, 1) from N(0, 1), within five standard errors."""
    n, true = 400_000, mu**2 / 2
    generator = torch.Generator().manual_seed(0)
    x = mu + torch.randn(n, generator=generator, dtype=torch.float64)
    logps, ref_logps = gaussian_logp(x, mu), gaussian_logp(x, 0.0)
    expected = {
        "k1": (0, 2 / mu, std_k1),
        "k2": (mu**2 / 4, math.sqrt(2 + mu**2), std_k2),
        "k3": (0, 2 * math.sqrt(math.exp(mu**2) - 1 - mu**2) / mu**2, std_k3),
    }
    assert bias_k2 == pytest.approx(expected["k2"][0], rel=0.25)  # the table is rounded to one digit
    for name, (bias, deviation, in_table) in expected.items():
        values = kl.ESTIMATORS[name](logps, ref_logps) / true
        error = values.std() / math.sqrt(n)
        assert abs(values.mean() - 1 - bias) < 5 * error, name
        spread_error = ((values - values.mean()) ** 2).std() / math.sqrt(n) / (2 * values.std())
        assert abs(values.std() - deviation) < 5 * spread_error, name
        assert in_table == pytest.approx(deviation, rel=0.02), name


@pytest.mark.parametrize("sigma", [0.8, 1.2])
def test_gaussian_gradients_are_the_closed_forms(sigma):
    """In one dimension, by quadrature, with respect to the policy's mean; Δ = μ − μ_ref, reference N(0, 1.1²)."""
    mean, delta, sigma_ref = torch.tensor(0.5, dtype=torch.float64), 0.5, 1.1

    def in_loss(name):
        def value(mu):
            return expectation(
                lambda x: kl.ESTIMATORS[name](gaussian_logp(x, mu, sigma), gaussian_logp(x, 0.0, sigma_ref)),
                mean,
                sigma,
            )

        return gradient(value, mean).item()

    def in_reward(name):
        def value(mu):
            def weighted(x):
                logps = gaussian_logp(x, mu, sigma)
                return kl.ESTIMATORS[name](logps.detach(), gaussian_logp(x, 0.0, sigma_ref)) * logps

            return expectation(weighted, mean, sigma)

        return gradient(value, mean).item()

    reverse, forward = delta / sigma_ref**2, delta / sigma**2
    assert in_reward("k1") == pytest.approx(reverse, rel=1e-9)
    assert in_loss("k2") == pytest.approx(reverse, rel=1e-9)
    assert in_loss("k3+") == pytest.approx(reverse, rel=1e-9)
    assert in_loss("k3") == pytest.approx(forward, rel=1e-5)
    assert in_reward("k3") == pytest.approx(reverse - forward, rel=1e-5)
    assert in_loss("k1") == pytest.approx(0, abs=1e-12)


def test_three_dimensional_gaussian():
    """KL and gradient at σ = .8 and 1.2, means (.5, −.2, .1) and (0, .3, −.4): .6434786577, Δ/1.44 = ±.347222."""
    mean = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
    ref_mean = torch.tensor([0.0, 0.3, -0.4], dtype=torch.float64)
    per_dimension = [
        expectation(lambda x, m=m, r=r: kl.k1(gaussian_logp(x, m, 0.8), gaussian_logp(x, r, 1.2)), m, 0.8)
        for m, r in zip(mean, ref_mean, strict=True)
    ]
    assert sum(per_dimension).item() == pytest.approx(0.6434786577, abs=1e-9)
    slope = [
        gradient(
            lambda mu, m=m, r=r: expectation(
                lambda x: kl.k2(gaussian_logp(x, mu, 0.8), gaussian_logp(x, r, 1.2)), m, 0.8
            ),
            m,
        ).item()
        for m, r in zip(mean, ref_mean, strict=True)
    ]
    assert slope == pytest.approx([0.347222, -0.347222, 0.347222], abs=1e-6)


def test_straight_through_takes_the_value_of_one_and_the_gradient_of_the_other():
    logps = torch.tensor([-1.0, -4.0], dtype=torch.float64, requires_grad=True)
    ref_logps = torch.tensor([-2.0, -1.0], dtype=torch.float64)
    mixed = kl.straight_through(kl.k3(logps, ref_logps), kl.k2(logps, ref_logps))
    assert torch.equal(mixed, kl.k3(logps, ref_logps))
    torch.testing.assert_close(torch.autograd.grad(mixed.sum(), logps)[0], logps.detach() - ref_logps)


def test_sequence_is_the_estimator_of_the_summed_log_ratio():
    logps = torch.tensor([[-1.0, -2.0, float("nan")], [-0.5, -0.25, -0.125]], requires_grad=True)
    ref_logps = torch.tensor([[-1.5, -1.0, 7.0], [-1.0, -1.0, -1.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    sums = torch.tensor([-0.5, 2.125])
    torch.testing.assert_close(kl.sequence("k1", logps, ref_logps, mask), sums)
    torch.testing.assert_close(kl.sequence("k2", logps, ref_logps, mask), sums**2 / 2)
    (slope,) = torch.autograd.grad(kl.sequence("k2", logps, ref_logps, mask).sum(), logps)
    torch.testing.assert_close(slope, sums.unsqueeze(1) * mask)


@ESTIMATORS
def test_importance_weighted_estimators_have_the_reverse_kl_gradient_on_anyones_samples(estimator):
    """Σ over all completions of π_old·(weighted estimator), differentiated, against ∇KL(π‖ref)."""
    language, logits, ref_logits = language_and_policies(distance=0.8)
    old_logits = language_and_policies(seed=3)[1]
    old, ref = language.logps(old_logits).sum(-1), language.logps(ref_logits).sum(-1)

    def off_policy(logits):
        logps = language.logps(logits).sum(-1)
        return (old.exp() * kl.importance_weighted(estimator, logps, ref, old)).sum()

    true = gradient(lambda x: language.kl(x, ref_logits), logits)
    torch.testing.assert_close(gradient(off_policy, logits), true, rtol=0, atol=1e-9)
    if estimator != "k2":
        assert off_policy(logits).item() == pytest.approx(language.kl(logits, ref_logits).item(), abs=1e-12)


def test_weighted_k3_and_detached_weighted_k2_have_the_same_gradient_sample_by_sample():
    generator = torch.Generator().manual_seed(0)
    logps, ref_logps, old_logps = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    k2, k3 = (
        gradient(lambda x, name=name: kl.importance_weighted(name, x, ref_logps, old_logps).sum(), logps)
        for name in ("k2", "k3")
    )
    torch.testing.assert_close(k2, k3)


def test_importance_weights_stay_finite():
    logps = torch.tensor([100.0, -100.0, 0.3], requires_grad=True)
    weights = kl.importance_weights(logps, torch.zeros(3))
    (slope,) = torch.autograd.grad(weights.sum(), logps)
    assert weights.isfinite().all() and slope.isfinite().all() and slope[0] > 0
    assert weights[2].item() == pytest.approx(math.exp(0.3))
