"""Hold the completions of a rollout with their log-probabilities and scores, and compute their metrics.

Deviations and means are over all completions and processes, before a rollout is cut into micro-batches, so that they do
not depend on how it is cut.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from trl_ext.rl import masked, rewards
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.rollout import distances


@dataclass
class Sampled:
    """Completions of one process: B completions of up to C tokens.

    Attributes:
        logps: (B, C), log-probabilities per token under the policy that sampled, at the sampling temperature; `None` where the
            update's own pass is the first to compute them.
        ref_logps: (B, C), under the reference; `None` where nothing reads a reference.
        sampling_logps: (B, C), under the weights that sampled, where those are computed in another way than `logps`; NaN
            where they are not known, `None` where the policy itself sampled.
        mask: (B, C), 1 on the tokens to learn from.
        scores: (B,), from the reward sources. NaN where none applies; tokens of such completions are masked.
        normalised_scores: (B,), what an advantage compares where the rewards of several sources are normalised one by one; `None`
            where it compares the scores.
        is_ended: bool (B,), whether the completion has an end token.
        greedy_scores: (B,), of a greedy completion of the same prompt, penalised like the others; `None` unless they are read.
    """

    logps: Tensor | None
    ref_logps: Tensor | None
    mask: Tensor
    scores: Tensor
    is_ended: Tensor
    greedy_scores: Tensor | None = None
    normalised_scores: Tensor | None = None
    sampling_logps: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.mask = self.mask * ~self.scores.isnan().unsqueeze(1)

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

    def record_samples(self, sums: MeanMetrics) -> dict[str, Tensor]:
        """Add the metrics that every rollout has, means over completions, and the distances of the policy if it was scored.

        Returns:
            The largest values of metrics that are no means.
        """
        sums.add("score", self.scores.nansum(), (~self.scores.isnan()).sum())
        sums.add("completions/eos_share", self.is_ended.sum(), len(self.mask))
        sums.add("completions/left_out", (~self.mask.any(1)).sum(), len(self.mask))
        if self.logps is None:
            return {}
        return distances.record(
            sums, self.logps, self.mask, ref_logps=self.ref_logps, sampling_logps=self.sampling_logps
        )
