"""Losses and gradients of TRL's GRPOTrainer and RLOOTrainer (1.16), for every `loss_type`, on the same log-probabilities."""

import pytest
import torch

from tests.rl.objectives.helpers import micro_batch, trl_grpo_loss, trl_rloo_loss
from trl_ext.rl import aggregation, kl, objectives

BETA = 0.07
MAX_LENGTH = 16

SPELLINGS = {
    "grpo": ("clipped", "sequence"),
    "bnpo": ("clipped", "token"),
    "dapo": ("clipped", "token"),
    "dr_grpo": ("clipped", "constant"),
    "luspo": ("clipped", "sum"),
    "cispo": ("cispo", "token"),
    "sapo": ("sapo", "sequence"),
    "vespo": ("vespo", "token"),
}
"""TRL's `loss_type`: our surrogate and our aggregation."""


def assert_same(loss, expected, logps):
    """Value and gradient."""
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(x, logps, retain_graph=True)[0] for x in (loss, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].any()


def ours(batch, surrogate, how, *, beta=0.0, **settings):
    logps, old_logps, ref_logps, advantages, mask = batch
    found = objectives.SURROGATES[surrogate](logps, old_logps, advantages, mask, **settings)
    per_completion = found.losses.sum(1)
    if beta:
        per_completion = per_completion + beta * objectives.kl_loss(
            logps, ref_logps, mask, estimator="k3", level="token"
        )
    return aggregation.aggregate(per_completion, mask, how, max_length=MAX_LENGTH), found.is_clipped


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", SPELLINGS)
def test_every_loss_type(loss_type, level, beta):
    """VESPO has a level of its own. The KL term is TRL's k3 per token, aggregated with the same weights."""
    surrogate, how = SPELLINGS[loss_type]
    logps, *others = micro_batch()
    logps.requires_grad_()
    limits = {"epsilon_high": 1.1} if surrogate == "cispo" else {}
    clip = {"epsilon": 0.2, "epsilon_high": 0.2} if surrogate == "clipped" else limits
    settings = {} if surrogate == "vespo" else clip | {"level": level}
    expected, _ = trl_grpo_loss(
        logps, *others, loss_type=loss_type, importance_sampling_level=level, beta=beta, **limits
    )
    loss, _ = ours((logps, *others), surrogate, how, beta=beta, **settings)
    assert_same(loss, expected, logps)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("spread", [0.4, 2.0])
def test_two_sided_clipping_and_clip_higher(level, spread):
    logps, *others = micro_batch(seed=3, spread=spread)
    logps.requires_grad_()
    settings = {"epsilon": 0.2, "epsilon_high": 0.28, "delta": 1.5}
    expected, _ = trl_grpo_loss(logps, *others, loss_type="grpo", importance_sampling_level=level, **settings)
    loss, _ = ours((logps, *others), "clipped", "sequence", level=level, **settings)
    assert_same(loss, expected, logps)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_share_of_clipped_tokens_is_trls(level):
    """TRL's `clip_ratio/region_mean`, over tokens or over completions."""
    batch = micro_batch(seed=1)
    _, metrics = trl_grpo_loss(*batch, importance_sampling_level=level)
    _, is_clipped = ours(batch, "clipped", "sequence", level=level)
    share = is_clipped.sum() / batch[-1].sum() if level == "token" else is_clipped.any(1).double().mean()
    assert share.item() == pytest.approx(metrics["clip_ratio/region_mean"][0]) and share > 0


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.4])
def test_rloo_is_the_ratio_of_whole_completions_summed(spread):
    """At spread 0, on fresh samples, the gradient is that of the sum of tokens, too."""
    logps, old_logps, ref_logps, advantages, mask = micro_batch(seed=2, spread=spread)
    logps.requires_grad_()
    old_logps = logps.detach().clone() if spread == 0 else old_logps
    expected, metrics = trl_rloo_loss(logps, old_logps, advantages, mask)
    loss, is_clipped = ours((logps, old_logps, ref_logps, advantages, mask), "clipped", "sum", level="sequence_sum")
    assert_same(loss, expected, logps)
    assert is_clipped.any(1).double().mean().item() == pytest.approx(metrics["clip_ratio/region_mean"][0])
    if spread == 0:
        per_token, _ = ours((logps, old_logps, ref_logps, advantages, mask), "clipped", "sum")
        torch.testing.assert_close(*(torch.autograd.grad(x, logps, retain_graph=True)[0] for x in (loss, per_token)))


def test_k3_plus_trains_like_k2_where_trls_k3_does_not():
    """TRL's KL term and ours with k3 are the same; k3+ keeps its value and has the gradient of k2."""
    logps, _, ref_logps, _, mask = micro_batch()
    logps.requires_grad_()
    terms = {
        name: objectives.kl_loss(logps, ref_logps, mask, estimator=name, level="sequence").sum()
        for name in kl.ESTIMATORS
    }
    gradients = {name: torch.autograd.grad(term, logps, retain_graph=True)[0] for name, term in terms.items()}
    torch.testing.assert_close(terms["k3+"], terms["k3"])
    torch.testing.assert_close(gradients["k3+"], gradients["k2"])
    assert (gradients["k3"] - gradients["k2"]).norm() > 0.1
