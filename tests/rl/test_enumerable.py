"""PPO out of these functions alone, on a language whose optimum π* ∝ ref·exp(score/β) is known.

Expectations are exact sums over all completions unless said otherwise: what differs from π* is bias, not noise.
"""

import itertools

import pytest
import torch

from trl_ext.rl import advantages, kl, objectives, rewards
from trl_ext.rl.enumerable import Language

BETA = 1.0


def task(seed):
    """A language of 15 completions, reference logits and scores; at these seeds the optimum is soft."""
    language = Language(3, 3)
    generator = torch.Generator().manual_seed(seed)
    ref_logits = 0.7 * torch.randn(language.logits_shape, generator=generator, dtype=torch.float64)
    return language, ref_logits, torch.randn(len(language.tokens), generator=generator, dtype=torch.float64)


def train(language, ref_logits, scores, cell, steps=250, epochs=1, samples=None):
    """Logits after PPO with a tabular critic, Adam and clipping at .2; `samples` completions per step, or all."""
    estimator, placement, level = cell
    in_reward = (
        {"kl_coef": BETA, "estimator": estimator, "level": level} if placement == "reward" else {"kl_coef": 0.0}
    )
    logits = ref_logits.clone().requires_grad_()
    values = torch.zeros(len(language.prefixes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [logits], "lr": 0.03}, {"params": [values], "lr": 0.05}])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        probabilities = language.probabilities(logits).detach()
        if samples is None:
            rows, weights = torch.arange(len(probabilities)), probabilities
        else:
            rows = torch.multinomial(probabilities, samples, replacement=True, generator=generator)
            weights = torch.full((samples,), 1 / samples, dtype=torch.float64)
        mask = language.mask[rows]
        old_logps, ref_logps = language.logps(logits).detach()[rows], language.logps(ref_logits)[rows]
        old_values = language.per_prefix(values).detach()[rows]
        shaped = rewards.shape(scores[rows], old_logps, ref_logps, mask, **in_reward)
        adv, returns = advantages.gae(shaped, old_values, mask, lam=1.0)
        for _ in range(epochs):
            logps = language.logps(logits)[rows]
            loss = objectives.policy_loss(logps, old_logps, adv, mask).losses.sum(-1)
            if placement == "loss":
                loss = loss + BETA * objectives.kl_loss(
                    logps, ref_logps, mask, estimator=estimator, level=level, old_logps=old_logps
                )
            loss = loss + objectives.value_loss(
                language.per_prefix(values)[rows], old_values, returns, mask
            ).losses.sum(-1)
            optimizer.zero_grad()
            (weights * loss).sum().backward()
            optimizer.step()
        schedule.step()
    return logits.detach()


def distance_from_the_optimum(seed, cell, **settings):
    """Total variation between what was learned and π*."""
    language, ref_logits, scores = task(seed)
    learned = language.probabilities(train(language, ref_logits, scores, cell, **settings))
    return (learned - language.optimum(ref_logits, scores, BETA)).abs().sum().item() / 2


@pytest.mark.parametrize("seed", [1, 3])
def test_the_optimum_is_soft_and_away_from_the_reference(seed):
    language, ref_logits, scores = task(seed)
    optimum = language.optimum(ref_logits, scores, BETA)
    assert optimum.max() < 0.4
    assert (optimum - language.probabilities(ref_logits)).abs().sum() / 2 > 0.3


@pytest.mark.parametrize("seed", [1, 3])
@pytest.mark.parametrize(
    "cell",
    [("k1", "reward", "token"), ("k1", "reward", "sequence"), ("k2", "loss", "sequence"), ("k3+", "loss", "sequence")],
)
def test_cells_with_the_reverse_kl_gradient_reach_the_optimum(cell, seed):
    assert distance_from_the_optimum(seed, cell) < 0.002


@pytest.mark.parametrize("cell", [("k1", "reward", "token"), ("k2", "loss", "sequence")])
def test_they_do_from_samples_too(cell):
    assert distance_from_the_optimum(3, cell, samples=256) < 0.02


@pytest.mark.parametrize("seed", [1, 3])
@pytest.mark.parametrize("estimator", ["k2", "k3", "k3+"])
def test_k2_and_k3_in_the_reward_go_elsewhere(estimator, seed):
    assert distance_from_the_optimum(seed, (estimator, "reward", "token")) > 0.2


@pytest.mark.parametrize("seed", [1, 3])
@pytest.mark.parametrize("cell", [("k2", "loss", "token"), ("k3", "loss", "sequence"), ("k3", "loss", "token")])
def test_token_k2_and_k3_in_the_loss_stop_short(cell, seed):
    assert 0.02 < distance_from_the_optimum(seed, cell) < 0.35


def test_k1_in_the_loss_holds_nothing_back():
    """It converges to the completion with the highest score, as no KL at all would."""
    language, ref_logits, scores = task(3)
    learned = language.probabilities(train(language, ref_logits, scores, ("k1", "loss", "token"), steps=800))
    assert learned[scores.argmax()] > 0.9


def test_several_epochs_per_rollout_with_weights_stay_at_the_optimum():
    for cell in (("k1", "reward", "token"), ("k2", "loss", "sequence")):
        assert distance_from_the_optimum(3, cell, epochs=3) < 0.01


@pytest.mark.parametrize("cell", list(itertools.product(kl.ESTIMATORS, kl.PLACEMENTS, kl.LEVELS)), ids="-".join)
def test_every_cell_runs(cell):
    language, ref_logits, scores = task(1)
    assert train(language, ref_logits, scores, cell, steps=3, epochs=2, samples=8).isfinite().all()


def test_the_language_is_all_of_it():
    """1 + 2 + 4 completions that end and 8 that run out of tokens; probabilities sum to 1."""
    language, ref_logits, _ = task(1)
    assert language.tokens.shape == (15, 3) and language.is_ended.sum() == 7
    assert language.probabilities(ref_logits).sum().item() == pytest.approx(1, abs=1e-12)
    listed = {tuple(t[m].tolist()) for t, m in zip(language.tokens, language.mask, strict=True)}
    assert len(listed) == 15 and all(0 not in completion[:-1] for completion in listed)
    first_choice = ref_logits[language.prefixes.index(())].softmax(-1)
    starts = torch.stack([language.probabilities(ref_logits)[language.tokens[:, 0] == v].sum() for v in range(3)])
    torch.testing.assert_close(starts, first_choice)
