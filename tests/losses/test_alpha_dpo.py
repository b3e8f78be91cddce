"""AlphaDPO against the authors' code, its running values, its gradient, and its limit, SimPO."""

import statistics

import pytest
import torch

from tests.losses.helpers import batch, read_by
from trl_ext import losses

LENS = {"chosen_lens": torch.tensor([5, 8, 4]), "rejected_lens": torch.tensor([6, 3, 7])}
NAMES = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
STEP = [-8.0, -9.7, -7.1], [-12.0, -9.9, -12.5], [-9.5, -10.0, -8.4], [-9.6, -9.9, -10.1]
# `dpo_loss` of scripts/dpo_trainer.py in junkangwu/alpha-DPO at fab32091, loss_type alpha-dpo, β = 2.5, γ/β = .6, α = .2, with
# its moving mean and standard deviation at that step
AUTHORS = {"margin_mean": 0.052852380952380956, "margin_std": 0.0554514461187206, "steps": 2.0}
EXPECTED = [6.3370347887249, 0.020907386730262986, 7.019543754070473]


def tensors_of(step=STEP):
    return {name: torch.tensor(row, dtype=torch.float64) for name, row in zip(NAMES, step, strict=True)} | LENS


def margins():
    """h̄ of each pair, with Python's own numbers."""
    (w, lost, ref_w, ref_l), n, m = STEP, LENS["chosen_lens"].tolist(), LENS["rejected_lens"].tolist()
    return [(w[i] - ref_w[i]) / n[i] - (lost[i] - ref_l[i]) / m[i] for i in range(3)]


def test_losses_of_the_authors():
    out = losses.get("alpha_dpo")(**tensors_of(), state=AUTHORS)
    assert out.losses.tolist() == pytest.approx(EXPECTED, abs=1e-12)


def test_running_values_are_plain_means_that_become_moving_averages():
    loss = losses.get("alpha_dpo", margin_momentum=0.9)
    state = loss.next_state(loss.initial_state, **tensors_of())
    mean, std = statistics.fmean(margins()), statistics.stdev(margins())
    assert state == pytest.approx({"margin_mean": mean, "margin_std": std, "steps": 1.0})
    other = loss.next_state({"margin_mean": 1.0, "margin_std": 2.0, "steps": 1.0}, **tensors_of())
    assert other == pytest.approx({"margin_mean": (1 + mean) / 2, "margin_std": (2 + std) / 2, "steps": 2.0})
    late = loss.next_state({"margin_mean": 1.0, "margin_std": 2.0, "steps": 50.0}, **tensors_of())
    assert late["margin_mean"] == pytest.approx(0.9 + 0.1 * mean) and late["margin_std"] == pytest.approx(
        1.8 + 0.1 * std
    )


def test_the_target_margin_has_no_gradient():
    # d/dℓ_w of −log σ(x), x = β(ℓ̄_w − ℓ̄_l − target): −β/n_w · (1 − e^(−loss))
    loss, tensors = losses.get("alpha_dpo"), tensors_of()
    leaf = tensors["chosen_logps"].requires_grad_()
    losses_ = loss(**tensors, state=AUTHORS).losses
    losses_.sum().backward()
    expected = -2.5 / LENS["chosen_lens"] * (1 - (-losses_.detach()).exp())
    torch.testing.assert_close(leaf.grad, expected.double())


def test_without_adaptation_and_at_the_start_it_is_simpo():
    tensors = batch(size=4)
    simpo = losses.get("simpo", beta=2.5, gamma_beta_ratio=0.6)
    expected = simpo(**read_by(simpo, tensors)).losses
    fixed = losses.get("alpha_dpo", adaptive_alpha=0)
    torch.testing.assert_close(fixed(**read_by(fixed, tensors), state=AUTHORS).losses, expected)
    start = losses.get("alpha_dpo")
    at_reference = read_by(start, batch(size=4, policy_is_reference=True))
    at_reference["chosen_logps"] = at_reference["chosen_logps"] + torch.tensor([0, 1e-6, -1e-6, 0])  # rounding
    state = start.next_state(start.initial_state, **at_reference)
    assert 0 < state["margin_std"] < 1e-6
    found = start(**at_reference, state=state).losses
    torch.testing.assert_close(found, simpo(**read_by(simpo, at_reference)).losses)


def test_a_step_of_one_pair():
    loss = losses.get("alpha_dpo")
    one = {name: value[:1] for name, value in tensors_of().items()}
    state = loss.next_state(loss.initial_state, **one)
    assert state["margin_std"] == 0 and loss(**one, state=state).losses.isfinite().all()
