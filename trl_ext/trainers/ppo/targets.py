"""Turn a rollout into the tensors that the losses read: rewards per token, advantages, and returns for a critic.

Everything is computed once per rollout, over all its completions and processes, before it is cut into micro-batches. So
whitening, the normalisation of the loss and the KL coefficient do not depend on how it is cut.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from trl_ext.rl import advantages, masked, policy_gradient, rewards
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.ppo.config import PPOConfig
from trl_ext.trainers.rollout.sampled import Sampled

WHITENING_EPSILON = 1e-8

OLD_LOGPS, REF_LOGPS, SAMPLING_LOGPS = "old_per_token_logps", "ref_per_token_logps", "sampling_logps"
"""Log-probabilities in a batch, (B, C), where they exist."""

GROUP_EPSILON = 1e-4
"""Added to the deviation of the advantages of completions, as in TRL."""

ROUNDING = 1e-6
"""Relative difference that float32 rounding makes between equal returns computed in different ways."""


@dataclass
class Rollout(Sampled):
    """A rollout of a policy gradient.

    Attributes:
        values: (B, C), from the critic; `None` without one.
        groups: (B,), the number of the prompt of each completion, unique over all processes.
    """

    groups: Tensor | None = None
    values: Tensor | None = None

    def shaped_rewards(self, args: PPOConfig, kl_coef: float) -> Tensor:
        """(B, C): the penalised score on the last valid token, minus the KL if it is placed in the reward."""
        if self.normalised_scores is None:
            scores = self.penalised_scores(args.missing_eos_penalty)
        else:
            scores = self.normalised_scores
        if args.kl_placement == "reward" and kl_coef:
            logps, ref_logps = (masked.apply(each, self.mask) for each in (self.logps, self.ref_logps))
            placed = {"kl_coef": kl_coef, "estimator": args.kl_estimator, "level": args.kl_level}
        else:
            logps = ref_logps = scores.new_zeros(self.mask.shape)
            placed = {"kl_coef": 0.0}
        return rewards.shape(scores.nan_to_num(), logps, ref_logps, self.compared, **placed)

    @cached_property
    def compared(self) -> Tensor:
        """(B, C): the mask, with the first token of truncated completions that are left out of the loss.

        Their scores count in comparisons of the completions of a prompt, as in TRL. A completion without a score has no token.
        """
        is_first = torch.arange(self.mask.size(1), device=self.mask.device) == 0
        return torch.where(self.left_out.unsqueeze(1) & is_first, torch.ones_like(self.mask), self.mask)

    @property
    def left_out(self) -> Tensor:
        """Bool (B,): completions with a score that are not learnt from, because they are truncated."""
        return ~self.mask.any(1) & ~self.scores.isnan()

    def targets(self, shaped: Tensor, args: PPOConfig, kl_coef: float, add_up: Callable[[Tensor], Tensor]) -> dict:
        """The tensors that the losses read, with one row per completion, and three numbers (0-d) for the whole rollout.

        Returns:
            `token_advantages`, `loss_mask`, (B, C) each, with a critic `values` and `returns`, and those of
            `old_per_token_logps`, `ref_per_token_logps` that were computed; `mean_length`, tokens per completion; `loss_kl_coef`, the coefficient of a KL in the loss.
            It is divided by the standard deviation of the advantages if these are whitened, and 0 if the KL is in the
            reward; `advantage_std`, that deviation.
        """
        info = advantages.describe(args.advantage)
        token_advantages, of_critic = self._advantages(info, shaped, args, add_up)
        has_baseline = self._has_baseline(info, add_up)
        loss_kl_coef = shaped.new_tensor(kl_coef if args.kl_placement == "loss" else 0.0)
        _, variance = masked.moments(token_advantages, self.mask, add_up)
        if args.normalize_advantages and info.needs_groups:
            mean, deviation = self._moments_of_completions(token_advantages, has_baseline, add_up)
            token_advantages = (token_advantages - mean) / (deviation + GROUP_EPSILON)
            loss_kl_coef = loss_kl_coef / (deviation + GROUP_EPSILON)
        elif args.normalize_advantages:
            whitened = self.mask * has_baseline.unsqueeze(1)
            _, variance = masked.moments(token_advantages, whitened, add_up)
            token_advantages = masked.whiten(token_advantages, whitened, epsilon=WHITENING_EPSILON, add_up=add_up)
            loss_kl_coef = loss_kl_coef * (variance + WHITENING_EPSILON).rsqrt()
        token_advantages = masked.apply(token_advantages, self.mask * has_baseline.unsqueeze(1))
        tokens, completions = add_up(torch.stack([self.mask.sum().float(), shaped.new_tensor(len(self.mask))]))
        scored = {OLD_LOGPS: self.logps, REF_LOGPS: self.ref_logps}
        return {
            **{name: logps for name, logps in scored.items() if logps is not None},
            "token_advantages": token_advantages,
            "loss_mask": self.mask,
            "mean_length": (tokens / completions).clamp(min=1),
            "loss_kl_coef": loss_kl_coef,
            "advantage_std": variance.sqrt(),
            **of_critic,
        }

    def _has_baseline(self, info: Any, add_up: Callable[[Tensor], Tensor]) -> Tensor:
        """Bool (B,): false for a completion whose reward is compared with none; its advantage is 0, and is not whitened."""
        if info.needs_greedy:
            return ~self.greedy_scores.isnan()
        if info.needs_groups:
            ones = torch.ones(self.compared.shape, device=self.compared.device)
            return advantages.Groups(ones, self.compared, self.groups, add_up).counts > 1
        return torch.ones(len(self.mask), dtype=torch.bool, device=self.mask.device)

    def _moments_of_completions(
        self, token_advantages: Tensor, has_baseline: Tensor, add_up: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the advantages of completions, which are the same for all tokens of one (as TRL whitens RLOO's)."""
        lengths = self.compared.sum(1)
        of_completions = masked.total(token_advantages, self.compared) / lengths.clamp(min=1)
        mean, variance = masked.moments(of_completions, (lengths > 0) & has_baseline, add_up)
        return mean, variance.sqrt()

    def _advantages(
        self, info: Any, shaped: Tensor, args: PPOConfig, add_up: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The advantages (B, C) that `args` names; and for the critic, if there is one, values and returns (B, C)."""
        tensors = {
            "rewards": shaped,
            "values": self.values,
            "mask": self.compared if info.needs_groups else self.mask,
            "groups": self.groups,
            "greedy_rewards": self.greedy_scores,
        }
        function = advantages.get(info.name)
        settings = policy_gradient.hyperparameters(vars(args).get)
        whole = {"add_up": add_up, "left_out": self.left_out}
        settings |= {name: whole[name] for name in inspect.signature(function).parameters.keys() & whole.keys()}
        found = function(*(tensors[name] for name in info.inputs), **settings)
        if not info.needs_critic:
            return found, {}
        return found[0], {"values": masked.apply(self.values, self.mask), "returns": found[1]}

    def record(self, sums: MeanMetrics, shaped: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the rollout's metrics: means over tokens or over completions. Returns those of `record_samples`."""
        mask = self.mask
        sums.add("shaped_reward", masked.total(shaped, mask).sum(), mask.any(1).sum())
        if self.values is not None:
            sums.add("values/mean", masked.total(self.values, mask).sum(), mask.sum())
            sums.add("returns/mean", masked.total(targets["returns"], mask).sum(), mask.sum())
        return self.record_samples(sums)

    def explained_variance(self, returns: Tensor, add_up: Callable[[Tensor], Tensor]) -> Tensor:
        """1 − Var(returns − values)/Var(returns) over all tokens: 1 for a perfect critic, 0 for an uninformative one.

        Also 0 if all returns are equal up to rounding.
        """
        _, unexplained = masked.moments(returns - self.values, self.mask, add_up)
        mean, variance = masked.moments(returns, self.mask, add_up)
        is_flat = variance <= ROUNDING**2 * (mean.square() + unexplained)
        return torch.where(is_flat, 0, 1 - unexplained / variance)
