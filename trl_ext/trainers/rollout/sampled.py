"""Hold the completions of a rollout with their log-probabilities and scores, and compute their metrics.

Deviations and means are over all completions and processes, before a rollout is cut into micro-batches, so that they do
not depend on how it is cut.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trl_ext.rl import kl, masked, rewards
from trl_ext.trainers.common.metrics import MeanMetrics


@dataclass
class Sampled:
    """Completions of one process: B completions of up to C tokens.

    Attributes:
        logps, ref_logps: (B, C), log-probabilities per token under the policy that sampled and the reference, at the
            sampling temperature; the latter `None` where nothing reads a reference.
        sampling_logps: (B, C), under the weights that sampled, where those are computed in another way than `logps`; NaN
            where they are not known, `None` where the policy itself sampled.
        mask: (B, C), 1 on the tokens to learn from.
        scores: (B,), from the reward sources. NaN where none applies; tokens of such completions are masked.
        normalised_scores: (B,), what an advantage compares where the rewards of several sources are normalised one by one; `None`
            where it compares the scores.
        is_ended: bool (B,), whether the completion has an end token.
        greedy_scores: (B,), of a greedy completion of the same prompt, penalised like the others; `None` unless they are read.
    """

    logps: Tensor
    ref_logps: Tensor | None
    mask: Tensor
    scores: Tensor
    is_ended: Tensor
    greedy_scores: Tensor | None = None
    normalised_scores: Tensor | None = None
    sampling_logps: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.mask = self.mask * ~self.scores.isnan().unsqueeze(1)

    def kl_total_and_count(self) -> Tensor:
        """(2,): log π/π_ref summed over all unmasked completions, in nats, and the number of these.

        Their quotient is unbiased for the KL of whole completions.
        """
        per_sequence = kl.sequence("k1", self.logps, self.ref_logps, self.mask)
        return torch.stack([per_sequence.sum(), self.mask.any(1).sum().to(per_sequence.dtype)])

    def penalised_scores(self, missing_eos_penalty: float | None) -> Tensor:
        """(B,): the scores, minus the penalty for completions without an end token; NaN stays NaN."""
        if missing_eos_penalty is None:
            return self.scores
        return rewards.penalise_missing_eos(self.scores, self.is_ended, missing_eos_penalty)

    def score_deviation(self, missing_eos_penalty: float | None, add_up: Callable[[Tensor], Tensor]) -> Tensor:
        """Standard deviation of the penalised scores of unmasked completions, over all processes; 0 if all are equal.

        In float64, so that rounding of equal numbers stays far below any reward.
        """
        scores = self.penalised_scores(missing_eos_penalty).double()
        return masked.moments(scores, self.mask.any(1), add_up)[1].sqrt()

    def record_samples(self, sums: MeanMetrics) -> None:
        """Add the metrics that every rollout has. KL estimators are means over tokens, the others over completions."""
        mask = self.mask
        sums.add("score", self.scores.nansum(), (~self.scores.isnan()).sum())
        if self.ref_logps is not None:
            for name in ("k1", "k2", "k3"):  # k3+ has the value of k3
                sums.add(
                    f"kl/{name}", masked.total(kl.ESTIMATORS[name](self.logps, self.ref_logps), mask).sum(), mask.sum()
                )
            sums.add("kl/sequence", *self.kl_total_and_count())
        sums.add("completions/eos_share", self.is_ended.sum(), len(mask))
