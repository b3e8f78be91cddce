"""A rollout: completions sampled from the policy, and what PPO learns from them.

Everything is computed once per rollout, over all its completions and processes, before it is cut into batches. So
whitening, the normalisation of the loss and the KL coefficient do not depend on how it is cut.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trl_ext.rl import advantages, kl, masked, rewards
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.ppo.config import PPOConfig

WHITENING_EPSILON = 1e-8

ROUNDING = 1e-6
"""What float32 makes of equal returns that were computed in different ways, relative to their size."""


@dataclass
class Sampled:
    """Completions of one process, B of at most C tokens, whatever is learned from them.

    Attributes:
        logps, ref_logps: (B, C), log-probabilities per token under the policy that sampled and the reference, at the
            sampling temperature; the latter `None` where nothing reads a reference.
        mask: (B, C), 1 on the tokens to learn from.
        scores: (B,), what the reward sources say; NaN where none of them applies, whose tokens are masked.
        is_ended: bool (B,), whether the completion ended by itself.
    """

    logps: Tensor
    ref_logps: Tensor | None
    mask: Tensor
    scores: Tensor
    is_ended: Tensor

    def __post_init__(self) -> None:
        self.mask = self.mask * ~self.scores.isnan().unsqueeze(1)

    def kl_total_and_count(self) -> Tensor:
        """(2,): log π/π_ref summed over all completions to learn from, in nats, and how many they are.

        Their quotient is unbiased for the KL of whole completions.
        """
        per_sequence = kl.sequence("k1", self.logps, self.ref_logps, self.mask)
        return torch.stack([per_sequence.sum(), self.mask.any(1).sum().to(per_sequence.dtype)])

    def penalised_scores(self, missing_eos_penalty: float | None) -> Tensor:
        """(B,): the scores, less the penalty where a completion did not end; NaN stays NaN."""
        if missing_eos_penalty is None:
            return self.scores
        return rewards.penalise_missing_eos(self.scores, self.is_ended, missing_eos_penalty)

    def score_deviation(self, missing_eos_penalty: float | None, add_up: Callable[[Tensor], Tensor]) -> Tensor:
        """Of the penalised scores of completions to learn from, over all processes; 0 where nothing tells them apart.

        In float64, so that equal numbers have a deviation of 0 but for rounding far below any reward.
        """
        scores = self.penalised_scores(missing_eos_penalty).double()
        return masked.moments(scores, self.mask.any(1), add_up)[1].sqrt()

    def record_samples(self, sums: MeanMetrics) -> None:
        """Add the metrics of all rollouts: a KL estimator is divided by tokens, the others by completions."""
        mask = self.mask
        sums.add("score", self.scores.nansum(), (~self.scores.isnan()).sum())
        if self.ref_logps is not None:
            for name, estimator in kl.ESTIMATORS.items():
                sums.add(f"kl/{name}", masked.total(estimator(self.logps, self.ref_logps), mask).sum(), mask.sum())
            sums.add("kl/sequence", *self.kl_total_and_count())
        sums.add("completions/eos_share", self.is_ended.sum(), len(mask))


@dataclass
class Rollout(Sampled):
    """A rollout of PPO.

    Attributes:
        values: (B, C), the critic's.
    """

    values: Tensor

    def shaped_rewards(self, args: PPOConfig, kl_coef: float) -> Tensor:
        """(B, C): the score, less the penalty of a missing end, on the last valid token; less the KL if placed here."""
        scores = self.penalised_scores(args.missing_eos_penalty).nan_to_num()
        if args.kl_placement == "reward":
            placed = {"kl_coef": kl_coef, "estimator": args.kl_estimator, "level": args.kl_level}
        else:
            placed = {"kl_coef": 0.0}
        return rewards.shape(scores, self.logps, self.ref_logps, self.mask, **placed)

    def targets(self, shaped: Tensor, args: PPOConfig, kl_coef: float, add_up: Callable[[Tensor], Tensor]) -> dict:
        """What an update reads, one row per completion, and two numbers (0-d) for the whole rollout.

        Returns:
            `old_per_token_logps`, `ref_per_token_logps`, `values`, `returns`, `token_advantages`, `loss_mask`, (B, C)
            each; `mean_length`, tokens per completion; `loss_kl_coef`, the coefficient of a KL in the loss, divided
            by the standard deviation of the advantages where they were, and 0 where the KL is in the reward.
        """
        token_advantages, returns = advantages.gae(shaped, self.values, self.mask, gamma=args.gamma, lam=args.lam)
        loss_kl_coef = shaped.new_tensor(kl_coef if args.kl_placement == "loss" else 0.0)
        if args.normalize_advantages:
            _, variance = advantages.moments(token_advantages, self.mask, add_up)
            token_advantages = advantages.whiten(token_advantages, self.mask, epsilon=WHITENING_EPSILON, add_up=add_up)
            loss_kl_coef = loss_kl_coef * (variance + WHITENING_EPSILON).rsqrt()
        tokens, completions = add_up(torch.stack([self.mask.sum().float(), shaped.new_tensor(len(self.mask))]))
        return {
            "old_per_token_logps": self.logps,
            "ref_per_token_logps": self.ref_logps,
            "values": masked.apply(self.values, self.mask),
            "returns": returns,
            "token_advantages": token_advantages,
            "loss_mask": self.mask,
            "mean_length": (tokens / completions).clamp(min=1),
            "loss_kl_coef": loss_kl_coef,
        }

    def record(self, sums: MeanMetrics, shaped: Tensor, returns: Tensor) -> None:
        """Add the rollout's metrics; sums over tokens are divided by tokens, those over completions by completions."""
        self.record_samples(sums)
        mask = self.mask
        sums.add("shaped_reward", masked.total(shaped, mask).sum(), mask.any(1).sum())
        sums.add("values/mean", masked.total(self.values, mask).sum(), mask.sum())
        sums.add("returns/mean", masked.total(returns, mask).sum(), mask.sum())

    def explained_variance(self, returns: Tensor, add_up: Callable[[Tensor], Tensor]) -> Tensor:
        """1 − Var(returns − values)/Var(returns) over all tokens: 1 for a perfect critic, 0 for one that says nothing.

        Also 0 where all returns are the same but for rounding, and there is nothing to explain.
        """
        _, unexplained = advantages.moments(returns - self.values, self.mask, add_up)
        mean, variance = advantages.moments(returns, self.mask, add_up)
        is_flat = variance <= ROUNDING**2 * (mean.square() + unexplained)
        return torch.where(is_flat, 0, 1 - unexplained / variance)
