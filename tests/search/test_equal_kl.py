"""Measures at equal KL, against the exact frontier of a small policy."""

import math

import numpy as np
import pytest

from trl_ext.search.equal_kl import at_equal_kl


def test_within_the_bound_it_is_the_measure():
    assert at_equal_kl(0.9, 1.0, 0.5, 1.0) == 0.9
    assert at_equal_kl(0.9, -0.01, 0.5, 1.0) == 0.9  # an estimate of a small KL may be negative


def test_beyond_the_bound_the_gain_shrinks_with_the_root_of_the_kl():
    assert at_equal_kl(0.9, 4.0, 0.5, 1.0) == pytest.approx(0.5 + 0.4 / 2)
    values = [at_equal_kl(0.9, kl, 0.5, 1.0) for kl in (1, 1 + 1e-9, 2, 8, 1e9)]
    assert values == sorted(values, reverse=True) and values[0] == pytest.approx(values[1])
    assert values[-1] == pytest.approx(0.5, abs=1e-4)


def test_a_policy_that_trains_on_is_compared_at_the_kl_that_it_may_spend():
    assert at_equal_kl(0.6, 0.25, 0.5, 1.0, largest=2.0) == pytest.approx(0.5 + 0.1 * 2)
    assert at_equal_kl(0.6, 0.64, 0.5, 1.0, largest=2.0) == pytest.approx(0.5 + 0.1 / 0.8)
    assert at_equal_kl(0.6, 0.01, 0.5, 1.0, largest=2.0) == at_equal_kl(0.6, -0.01, 0.5, 1.0, largest=2.0)
    assert at_equal_kl(0.9, 4.0, 0.5, 1.0, largest=2.0) == at_equal_kl(0.9, 4.0, 0.5, 1.0)
    assert at_equal_kl(0.4, 0.1, 0.5, 1.0, largest=2.0) == 0.4


def test_a_loss_is_not_made_smaller_by_more_kl():
    assert at_equal_kl(0.3, 9.0, 0.5, 1.0) == 0.3


def test_a_run_without_a_number_is_worth_nothing():
    assert math.isnan(at_equal_kl(0.9, math.nan, 0.5, 1.0))


def test_it_is_the_exact_gain_of_the_optimal_policy_to_leading_order():
    """The policy with the largest reward at a given KL is ∝ ref·exp(r/β). Two of them, with KLs of 0.002 and 0.0005 nats."""
    rng = np.random.default_rng(0)
    ref, reward = rng.dirichlet(np.ones(50)), rng.normal(size=50)

    def policy(beta):
        weights = ref * np.exp(reward / beta)
        tilted = weights / weights.sum()
        return tilted @ reward, float(tilted @ np.log(tilted / ref))

    (far, far_kl), (near, near_kl) = policy(15.0), policy(30.0)
    assert far_kl > 3 * near_kl
    assert at_equal_kl(far, far_kl, ref @ reward, near_kl) == pytest.approx(near, rel=0.01)
