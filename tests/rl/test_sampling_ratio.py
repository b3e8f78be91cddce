"""Importance weights for completions that other weights sampled: TRL's definition, and the gradients they make exact."""

import math

import pytest
import torch

from trl_ext.checks import sampling_weights as rules
from trl_ext.rl import objectives
from trl_ext.rl.enumerable import Language
from trl_ext.rl.sampling_ratio import MODES, sampling_ratio

GENERATOR = torch.Generator().manual_seed(5)
LOGPS = -torch.rand(6, 4, generator=GENERATOR, dtype=torch.float64) * 3
SAMPLED = LOGPS + torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64)
MASK = torch.arange(4) < torch.tensor([4, 3, 1, 2, 4, 0])[:, None]


def by_hand(mode, low, high):
    """The equations of `trl.GRPOTrainer`, one number at a time."""
    rows = []
    for i, length in enumerate(MASK.sum(1).tolist()):
        logs = [(LOGPS[i, t] - SAMPLED[i, t]).item() for t in range(length)]
        if mode.startswith("sequence"):
            logs = [sum(logs)] * length
        ratios = [math.exp(log) for log in logs]
        if mode.endswith("mask"):
            ratios = [0.0 if (low is not None and r < low) or (high is not None and r > high) else r for r in ratios]
        else:
            ratios = [min(max(r, low or 0.0), math.inf if high is None else high) for r in ratios]
        rows.append(ratios + [1.0] * (4 - length))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("low", "high"), [(None, 3.0), (0.5, 2.0), (0.8, None), (None, None)])
def test_weights_are_those_of_the_equations(mode, low, high):
    found = sampling_ratio(LOGPS, SAMPLED, MASK, mode=mode, clip_min=low, clip_max=high)
    expected = by_hand(mode, low, high)
    torch.testing.assert_close(found.weights, expected)
    assert torch.equal(found.is_bounded, (by_hand(mode, None, None) - expected).abs() > 1e-12)


def test_outside_the_mask_nothing_is_read_and_unknown_tokens_have_weight_1():
    logps, sampled = LOGPS.clone(), SAMPLED.clone()
    logps[~MASK], sampled[~MASK] = math.nan, -math.inf
    plain = sampling_ratio(LOGPS, SAMPLED, MASK).weights
    assert torch.equal(sampling_ratio(logps, sampled, MASK).weights, plain)
    sampled[0, 1] = math.nan
    assert sampling_ratio(logps, sampled, MASK).weights[0, 1] == 1
    of_completion = sampling_ratio(logps, sampled, MASK, mode="sequence_truncate", clip_max=None).weights[0]
    torch.testing.assert_close(of_completion[0], (LOGPS - SAMPLED)[0, [0, 2, 3]].sum().exp())


def test_weights_have_no_gradient_and_unknown_modes_are_refused():
    logps = LOGPS.clone().requires_grad_()
    assert not sampling_ratio(logps, SAMPLED, MASK).weights.requires_grad
    with pytest.raises(ValueError, match="Choose from token_truncate"):
        sampling_ratio(LOGPS, SAMPLED, MASK, mode="token")
    assert rules.MODES == MODES


# Gradients: expectations over a language that can be enumerated --------------------------------------------------

KL_COEF = 0.3


class Setting:
    """A policy, stale weights that sample from it, a reference, and scores of all completions."""

    def __init__(self, length):
        generator = torch.Generator().manual_seed(2)
        self.language = Language(3, length)

        def table():
            return torch.randn(self.language.logits_shape, generator=generator, dtype=torch.float64)

        self.policy = table().requires_grad_()
        self.stale, self.reference = self.policy.detach() + 0.7 * table(), table()
        self.scores = torch.randn(len(self.language.tokens), generator=generator, dtype=torch.float64)

    def gradient(self, loss):
        return torch.autograd.grad(loss, self.policy)[0]

    def exact(self):
        """Of −E[score] + β·KL(π‖ref)."""
        expected = (self.language.probabilities(self.policy) * self.scores).sum()
        return self.gradient(KL_COEF * self.language.kl(self.policy, self.reference) - expected)

    def tensors(self):
        language = self.language
        logps = language.logps(self.policy)
        return logps, language.logps(self.stale), language.logps(self.reference), language.mask

    def with_kl_in_the_reward(self, baseline=0.4, **ratio):
        logps, sampled, reference, mask = self.tensors()
        rewards = self.scores - KL_COEF * (logps - reference).sum(1).detach()
        advantages = (rewards - baseline)[:, None].expand_as(mask)
        losses = objectives.policy_loss(logps, logps.detach(), advantages, mask).losses
        weights = sampling_ratio(logps, sampled, mask, **ratio).weights if ratio else 1
        return self.gradient((sampled.sum(1).exp() * (losses * weights).sum(1)).sum())

    def with_kl_in_the_loss(self, level, estimator, **ratio):
        logps, sampled, reference, mask = self.tensors()
        advantages = (self.scores - 0.4)[:, None].expand_as(mask)
        losses = objectives.policy_loss(logps, logps.detach(), advantages, mask).losses
        weights = sampling_ratio(logps, sampled, mask, **ratio).weights
        kl = objectives.kl_loss(
            logps, reference, mask, estimator=estimator, level=level, old_logps=logps.detach(),
            sampling_ratio=weights[:, :1] if level == "sequence" else weights,
        )  # fmt: skip
        return self.gradient((sampled.sum(1).exp() * ((losses * weights).sum(1) + KL_COEF * kl)).sum())


SEQUENCE = {"mode": "sequence_truncate", "clip_max": None}
TOKEN = {"mode": "token_truncate", "clip_max": None}


def apart(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_stale_weights_bias_the_gradient_and_weights_per_completion_make_it_exact():
    setting = Setting(length=3)
    exact = setting.exact()
    assert apart(setting.with_kl_in_the_reward(), exact) > 0.3
    assert apart(setting.with_kl_in_the_reward(**SEQUENCE), exact) < 1e-12
    assert apart(setting.with_kl_in_the_loss("sequence", "k2", **SEQUENCE), exact) < 1e-12


def test_weights_per_token_are_exact_for_one_token_and_not_for_several():
    """The tokens before are not weighted, so with several tokens prefixes stay those of the stale weights."""
    one = Setting(length=1)
    assert apart(one.with_kl_in_the_reward(**TOKEN), one.exact()) < 1e-12
    assert apart(one.with_kl_in_the_loss("token", "k2", **TOKEN), one.exact()) < 1e-12
    several = Setting(length=3)
    assert apart(several.with_kl_in_the_reward(**TOKEN), several.exact()) > 1e-3


def test_bounds_bring_back_some_bias_and_no_more_than_without_weights():
    setting = Setting(length=3)
    bounded = apart(setting.with_kl_in_the_reward(mode="sequence_truncate", clip_max=1.5), setting.exact())
    assert 1e-3 < bounded < apart(setting.with_kl_in_the_reward(), setting.exact())
