"""What is said of a rollout as a whole."""

import pytest
import torch

from tests.trainers.ppo.helpers import build, config
from trl_ext.trainers.ppo.targets import Rollout


def explained(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    mask = torch.ones_like(values) if mask is None else mask
    rollout = Rollout(
        logps=torch.zeros_like(values),
        ref_logps=torch.zeros_like(values),
        values=values,
        mask=mask,
        scores=torch.zeros(len(values)),
        is_ended=torch.ones(len(values), dtype=torch.bool),
    )
    return rollout.explained_variance(returns, lambda x: x).item()


def test_explained_variance():
    generator = torch.Generator().manual_seed(0)
    returns = torch.randn(8, 5, generator=generator)
    assert explained(returns.clone(), returns) == 1
    assert explained(torch.zeros(8, 5), returns) == 0
    assert explained(0.5 * returns, returns) == pytest.approx(1 - 0.25)
    assert explained(-returns, returns) == pytest.approx(1 - 4)
    mask = torch.arange(5) < torch.tensor([5, 4, 3, 2, 1, 5, 5, 5])[:, None]
    noise = torch.randn(8, 5, generator=generator)
    expected = 1 - noise[mask].var() / returns[mask].var()
    assert explained(returns - noise, returns, mask) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("constant", [0.0, 3.7, -1e4])
def test_equal_returns_leave_nothing_to_explain(constant):
    """Not −inf or NaN, nor a huge number where the returns differ by rounding, as sums of advantage and value do."""
    generator = torch.Generator().manual_seed(1)
    for size in (0.0, 1.0, 100.0):
        values = size * torch.randn(8, 5, generator=generator)
        assert explained(values, torch.full((8, 5), constant)) == 0
        assert explained(values, (constant - values) + values) == 0
    assert explained(torch.randn(1, 1, generator=generator), torch.full((1, 1), constant)) == 0  # a single token
    assert explained(torch.ones(2, 2), torch.full((2, 2), constant), torch.zeros(2, 2)) == 0  # none


def test_a_small_critic_of_small_returns_is_still_judged():
    returns = 1e-3 * torch.randn(8, 5, generator=torch.Generator().manual_seed(2)) + 1
    assert explained(0.5 * (returns - 1), returns) == pytest.approx(0.75, abs=1e-3)


def test_a_reward_that_never_varies_is_logged_as_nothing_to_explain(model, tmp_path):
    args = config(tmp_path, max_steps=1, kl_coef=0.0, lam=1.0)
    trainer = build(model, args, reward_funcs=lambda completions, **_: [1.0] * len(completions))
    trainer.train()
    assert trainer.recorder.logs[0]["explained_variance"] == 0


@pytest.mark.parametrize("name", ["opo", "reinforce_pp_baseline"])
def test_truncated_completions_that_are_left_out_are_no_completions_of_one_token(name, tmp_path):
    """Their scores are compared, and none of their tokens counts: neither in OPO's weights nor in what is whitened."""
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]])
    scores = torch.tensor([1.0, 4.0, -3.0, 0.0])
    rollout = Rollout(
        logps=None,
        ref_logps=None,
        mask=mask,
        scores=scores,
        is_ended=mask.any(1),
        groups=torch.zeros(4, dtype=torch.long),
    )
    args = config(tmp_path, advantage=name, num_generations=4, kl_coef=0.0)
    shaped = rollout.shaped_rewards(args, 0.0)
    found = rollout.targets(shaped, args, 0.0, lambda x: x)["token_advantages"][mask.bool()]
    kept = scores.double().repeat_interleave(mask.sum(1))
    if name == "opo":
        expected = kept - kept.mean()
    else:
        centred = kept - scores.double().mean()
        expected = (centred - centred.mean()) / (centred.var() + 1e-8).sqrt()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
