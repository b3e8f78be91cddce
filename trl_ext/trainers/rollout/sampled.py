"""Completions of a rollout with their log-probabilities and scores, whatever is learned from them.

Deviations and means are over all completions and processes, before a rollout is cut into micro-batches, so that they do
not depend on how it is cut.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trl_ext.rl import kl, masked, rewards
from trl_ext.trainers.common.metrics import MeanMetrics


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
