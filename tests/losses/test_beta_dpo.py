"""β-DPO over three steps against the authors' code, its gradient, and its limits."""

import math

import pytest
import torch

from tests.losses.helpers import batch, read_by
from trl_ext import losses

# `preference_loss` and `update_and_sync_tensor_mean` of trainers.py in junkangwu/beta-DPO at 16290473, with β = .1, a = .6 and
# no pair dropped: log-probs (chosen, rejected) of each step, then losses, β of the step, and M₀.
REFERENCE = [-9.5, -10.0, -8.4], [-9.6, -9.9, -10.1]
STEPS = [
    ([-9.1, -10.2, -8.0], [-9.9, -9.5, -11.0], [0.65028696965561, 0.73141239157016, 0.61507488418415], 0.1252, 0.14 / 3),
    ([-8.0, -9.7, -7.1], [-12.0, -9.9, -12.5], [0.33123227403641, 0.65784131453691, 0.34498260935417], 0.23968, 0.916 / 3),
    ([-9.0, -11.7, -9.1], [-9.0, -9.0, -9.5], [0.69372294621761, 0.70822476097169, 0.70065797644660], 0.011512, 0.4244 / 3),
]  # fmt: skip


def tensors_of(chosen, rejected):
    rows = (chosen, rejected, *REFERENCE)
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    return {name: torch.tensor(row, dtype=torch.float64) for name, row in zip(names, rows, strict=True)}


def test_steps_of_the_authors():
    loss = losses.get("beta_dpo")
    state = loss.initial_state
    for chosen, rejected, expected, _, mean in STEPS:
        tensors = tensors_of(chosen, rejected)
        state = loss.next_state(state, **tensors)  # M₀ includes the step itself
        assert state["mean_margin"] == pytest.approx(mean, abs=1e-12)
        assert loss(**tensors, state=state).losses.tolist() == pytest.approx(expected, abs=1e-12)


def test_gradient_is_that_of_dpo_with_the_beta_of_the_step():
    loss = losses.get("beta_dpo")
    chosen, rejected, _, step_beta, mean = STEPS[1]
    found = []
    for one, more in ((loss, {"state": {"mean_margin": mean}}), (losses.get("dpo", beta=step_beta), {})):
        tensors = tensors_of(chosen, rejected)
        leaf = tensors["chosen_logps"].requires_grad_()
        one(**tensors, **more).losses.sum().backward()
        found.append(leaf.grad)
    torch.testing.assert_close(*found)


def test_limits():
    tensors = read_by(losses.get("dpo"), batch())
    plain = losses.get("dpo", beta=0.3)(**tensors).losses
    torch.testing.assert_close(losses.get("beta_dpo", beta=0.3, dynamic_alpha=0)(**tensors).losses, plain)
    # a step far below the usual margin: β_t stops at .001
    h = (tensors["chosen_logps"] - tensors["ref_chosen_logps"]) - (
        tensors["rejected_logps"] - tensors["ref_rejected_logps"]
    )
    lowest = losses.get("beta_dpo")(**tensors, state={"mean_margin": 1e3}).losses
    assert lowest.tolist() == pytest.approx([math.log1p(math.exp(-0.001 * x)) for x in h.tolist()])
