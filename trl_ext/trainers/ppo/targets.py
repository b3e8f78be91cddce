"""Turn a rollout into the tensors that the losses read: rewards per token, advantages, and returns for a critic.

Everything is computed once per rollout, over all its completions and processes, before it is cut into micro-batches. So
whitening, the normalisation of the loss and the KL coefficient do not depend on how it is cut.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trl_ext.rl import advantages, masked, policy_gradient, rewards
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.ppo.config import PPOConfig
from trl_ext.trainers.rollout.sampled import Sampled

WHITENING_EPSILON = 1e-8

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
        scores = self.penalised_scores(args.missing_eos_penalty).nan_to_num()
        if args.kl_placement == "reward":
            placed = {"kl_coef": kl_coef, "estimator": args.kl_estimator, "level": args.kl_level}
        else:
            placed = {"kl_coef": 0.0}
        return rewards.shape(scores, self.logps, self.ref_logps, self.mask, **placed)

    def targets(self, shaped: Tensor, args: PPOConfig, kl_coef: float, add_up: Callable[[Tensor], Tensor]) -> dict:
        """The tensors that the losses read, with one row per completion, and three numbers (0-d) for the whole rollout.

        Returns:
            `old_per_token_logps`, `ref_per_token_logps`, `token_advantages`, `loss_mask`, (B, C) each, and with a critic
            `values`, `returns`; `mean_length`, tokens per completion; `loss_kl_coef`, the coefficient of a KL in the loss.
            It is divided by the standard deviation of the advantages if these are whitened, and 0 if the KL is in the
            reward; `advantage_std`, that deviation.
        """
        token_advantages, of_critic = self._advantages(shaped, args, add_up)
        loss_kl_coef = shaped.new_tensor(kl_coef if args.kl_placement == "loss" else 0.0)
        _, variance = masked.moments(token_advantages, self.mask, add_up)
        if args.normalize_advantages:
            token_advantages = masked.whiten(token_advantages, self.mask, epsilon=WHITENING_EPSILON, add_up=add_up)
            loss_kl_coef = loss_kl_coef * (variance + WHITENING_EPSILON).rsqrt()
        tokens, completions = add_up(torch.stack([self.mask.sum().float(), shaped.new_tensor(len(self.mask))]))
        return {
            "old_per_token_logps": self.logps,
            "ref_per_token_logps": self.ref_logps,
            "token_advantages": token_advantages,
            "loss_mask": self.mask,
            "mean_length": (tokens / completions).clamp(min=1),
            "loss_kl_coef": loss_kl_coef,
            "advantage_std": variance.sqrt(),
            **of_critic,
        }

    def _advantages(
        self, shaped: Tensor, args: PPOConfig, add_up: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The advantages (B, C) that `args` names; and for the critic, if there is one, values and returns (B, C)."""
        tensors = {
            "rewards": shaped,
            "values": self.values,
            "mask": self.mask,
            "groups": self.groups,
            "greedy_rewards": self.greedy_scores,
        }
        info, function = advantages.describe(args.advantage), advantages.get(args.advantage)
        settings = policy_gradient.hyperparameters(vars(args).get)
        if "add_up" in inspect.signature(function).parameters:
            settings["add_up"] = add_up
        found = function(*(tensors[name] for name in info.inputs), **settings)
        if not info.needs_critic:
            return found, {}
        return found[0], {"values": masked.apply(self.values, self.mask), "returns": found[1]}

    def record(self, sums: MeanMetrics, shaped: Tensor, targets: dict[str, Tensor]) -> None:
        """Add the rollout's metrics: means over tokens or over completions."""
        self.record_samples(sums)
        mask = self.mask
        sums.add("shaped_reward", masked.total(shaped, mask).sum(), mask.any(1).sum())
        if self.values is not None:
            sums.add("values/mean", masked.total(self.values, mask).sum(), mask.sum())
            sums.add("returns/mean", masked.total(targets["returns"], mask).sum(), mask.sum())

    def explained_variance(self, returns: Tensor, add_up: Callable[[Tensor], Tensor]) -> Tensor:
        """1 − Var(returns − values)/Var(returns) over all tokens: 1 for a perfect critic, 0 for an uninformative one.

        Also 0 if all returns are equal up to rounding.
        """
        _, unexplained = masked.moments(returns - self.values, self.mask, add_up)
        mean, variance = masked.moments(returns, self.mask, add_up)
        is_flat = variance <= ROUNDING**2 * (mean.square() + unexplained)
        return torch.where(is_flat, 0, 1 - unexplained / variance)
