"""Population minimisers found by optimisation, against their closed forms.

The bandit: three answers to one prompt, reference (.5, .3, .2), true rewards (1, 0, −.5). A policy is a
softmax over three free logits, and the loss is averaged over all ordered pairs with their exact
probabilities, so what is minimised is the population's loss.
"""

import math

import pytest
import torch

from trl_ext import losses

REF = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64)
BETA = 0.5
PREFERS = torch.sigmoid(REWARD[:, None] - REWARD[None, :])  # p(row ≻ column), Bradley–Terry


def minimise(objective, size):
    free = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [free], max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = objective(free)
        value.backward()
        return value

    optimiser.step(closure)
    return free.detach()


def pairwise_loss(loss, logps, ref_logps):
    """Loss (N, N) of preferring answer i (row) to answer j (column)."""
    size = len(logps)
    winner, loser = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    winner, loser = winner.reshape(-1), loser.reshape(-1)
    tensors = {
        "chosen_logps": logps[winner],
        "rejected_logps": logps[loser],
        "ref_chosen_logps": ref_logps[winner],
        "ref_rejected_logps": ref_logps[loser],
        "chosen_lens": torch.ones(size**2),
        "rejected_lens": torch.ones(size**2),
    }
    return loss(**{name: tensors[name] for name in loss.inputs}).losses.reshape(size, size)


def population_minimiser(loss, prefers=PREFERS):
    def objective(logits):
        return (prefers * pairwise_loss(loss, logits.log_softmax(0), REF.log())).mean()

    return minimise(objective, 3).softmax(0)


def assert_close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), atol=atol, rtol=0)


def test_dpo_finds_the_optimal_policy():
    # π* = ref · exp(r/β) / Z, Z = 4.068104
    assert (REF * (REWARD / BETA).exp()).sum().item() == pytest.approx(4.068104, abs=1e-6)
    assert_close(population_minimiser(losses.get("dpo", beta=BETA)), [0.908170, 0.073744, 0.018086])


def test_robust_finds_it_under_flipped_labels():
    flip = 0.2
    noisy = (1 - flip) * PREFERS + flip * PREFERS.T
    found = population_minimiser(losses.get("robust", beta=BETA, label_smoothing=flip), noisy)
    assert_close(found, [0.908170, 0.073744, 0.018086])
    misled = population_minimiser(losses.get("dpo", beta=BETA), noisy)
    assert (misled - found).abs().max() > 0.1


def test_f_divergence_finds_the_policy_of_its_own_regulariser():
    # maximise E_π[r] − β·KL(π_ref‖π): the stationary point is π = ref · β/(λ − r), λ fixed by Σπ = 1.
    low, high = REWARD.max().item() + 1e-12, REWARD.max().item() + 10
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (REF * BETA / (middle - REWARD)).sum() > 1 else (low, middle)
    expected = REF * BETA / (middle - REWARD)
    found = population_minimiser(losses.get("dpo", beta=BETA, f_divergence_type="forward_kl"))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "tau, expected",
    [(0.5, [0.627329, 0.242861, 0.129810]), (1.0, [0.565083, 0.272345, 0.162573])],
)
def test_summed_ipo_finds_its_optimum(tau, expected):
    # π ∝ ref · exp(p(y ≻ μ)/τ), with μ uniform over the three answers
    closed_form = (REF * (PREFERS.mean(1) / tau).exp()).tolist()
    assert [value / sum(closed_form) for value in closed_form] == pytest.approx(expected, abs=1e-6)
    assert_close(population_minimiser(losses.get("ipo", beta=tau, average=False)), expected)


@pytest.mark.parametrize("p", [0.6, 0.75, 0.9])
def test_two_arms(p):
    """The log-ratio margin h that minimises p·loss(h) + (1 − p)·loss(−h)."""

    def best_margin(name, **hyperparameters):
        loss = losses.get(name, **hyperparameters)

        def objective(h):
            both = pairwise_loss(loss, torch.cat([h, 0 * h]), torch.zeros(2, dtype=torch.float64))
            return p * both[0, 1] + (1 - p) * both[1, 0]

        return minimise(objective, 1).item()

    logit = math.log(p / (1 - p))
    assert best_margin("ipo", beta=0.5, average=False) == pytest.approx((p - 0.5) / 0.5, abs=1e-6)
    assert best_margin("dpo", beta=0.5) == pytest.approx(logit / 0.5, abs=1e-6)
    # Smoothed labels are the labels of a coin that is right with p(1−ε) + (1−p)ε.
    seen = 0.9 * p + 0.1 * (1 - p)
    smoothed = best_margin("dpo", beta=0.5, label_smoothing=0.1)
    assert smoothed == pytest.approx(math.log(seen / (1 - seen)) / 0.5, abs=1e-6)
    # BCO settles each reward at the logit of being chosen: p for the one, 1 − p for the other.
    bco, chances = losses.get("bco", beta=1.0), torch.tensor([[0, p], [1 - p, 0]])
    free = minimise(lambda rewards: (chances * pairwise_loss(bco, rewards, 0 * rewards)).sum(), 2)
    assert free.tolist() == pytest.approx([logit, -logit], abs=1e-6)


def test_exo_and_sppo_reach_their_targets():
    # EXO: σ(βh) = 1 − ε; SPPO: log-ratios ±1/(2β). Every pair here has the same winner.
    zeros = torch.zeros(2, dtype=torch.float64)
    exo = losses.get("exo", beta=0.5, label_smoothing=0.05)
    margin = minimise(lambda h: pairwise_loss(exo, torch.cat([h, 0 * h]), zeros)[0, 1], 1).item()
    assert margin == pytest.approx(math.log(0.95 / 0.05) / 0.5, abs=1e-5)
    sppo = losses.get("sppo_hard", beta=0.25)
    log_ratios = minimise(lambda x: pairwise_loss(sppo, x, zeros)[0, 1], 2)
    assert log_ratios.tolist() == pytest.approx([2.0, -2.0], abs=1e-6)


def test_simpo_at_equal_averages():
    # −log σ(−γ) = log(1 + e^γ), .974077 at γ = .5; the lengths differ, the means do not.
    loss = losses.get("simpo", gamma=0.5)
    sums = {"chosen_logps": torch.tensor([-6.0]), "rejected_logps": torch.tensor([-15.0])}
    out = loss(**sums, chosen_lens=torch.tensor([4]), rejected_lens=torch.tensor([10]))
    assert out.losses.item() == pytest.approx(math.log1p(math.exp(0.5)), abs=1e-6)
    assert out.losses.item() == pytest.approx(0.974077, abs=1e-6)


def test_dpo_on_match_counts_is_bradley_terry():
    # A beats B 3–1, A–C 1–1, B–C 1–1. With a uniform reference and β = 1 the policy is the strengths.
    wins = torch.tensor([[0, 3, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64)
    loss, uniform = losses.get("dpo", beta=1.0), torch.full((3,), 1 / 3, dtype=torch.float64).log()

    def objective(logits):
        return (wins * pairwise_loss(loss, logits.log_softmax(0), uniform)).sum()

    logits = minimise(objective, 3)
    assert_close(logits.softmax(0), [0.478620, 0.206783, 0.314596])
    assert objective(logits).item() == pytest.approx(5.135627, abs=1e-6)


def test_kto_gradient_peaks_at_the_reference_point():
    # d/dΔ of λ(1 − σ(β(Δ − z))) is −λβσ'(β(Δ − z)), −λβ/4 at Δ = z: β = .1, λ = 1.5 → −.0375.
    loss = losses.get("kto", beta=0.1, desirable_weight=1.5, undesirable_weight=2.0)
    logps = torch.tensor([0.7, 0.7], dtype=torch.float64, requires_grad=True)
    out = loss(
        logps=logps,
        ref_logps=torch.zeros(2, dtype=torch.float64),
        desirable=torch.tensor([True, False]),
        z_ref=torch.tensor(0.7, dtype=torch.float64),
    )
    out.losses.sum().backward()
    assert out.losses.tolist() == pytest.approx([0.75, 1.0])
    assert logps.grad.tolist() == pytest.approx([-0.0375, 0.05])
