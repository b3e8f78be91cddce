"""Measure how far the policy that sampled is from its reference, and from the weights that sampled for it.

They are computed from the first log-probabilities of the policy that exist: those of the pass that scores a rollout or, where
that pass is left out, those of the update's own forward pass (`trl_ext.trainers.rollout.update`).
"""

from typing import Any

import torch
from torch import Tensor

from trl_ext.reference.frozen_copy import policy_is_reference
from trl_ext.rl import kl, masked
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.step_zero import APART_16_BIT, APART_32_BIT, WrongInitialLossError, is_rounded

ESTIMATORS = ("k1", "k2", "k3")
"""Those that are logged; k3+ has the value of k3."""

TO_REFERENCE = "distance to the reference"
"""Mean of |log π − log π_ref| per token, in nats. Summed for the check of the first step, and not logged."""
TO_SAMPLING, FARTHEST = "sampling/logp_difference/mean", "sampling/logp_difference/max"


def record(
    sums: MeanMetrics, logps: Tensor, mask: Tensor, *, ref_logps: Tensor | None, sampling_logps: Tensor | None
) -> dict[str, Tensor]:
    """Add the distances to `sums`: means over tokens, and `kl/sequence` over completions, in nats.

    Args:
        sums: Of the optimizer step, or of the evaluation batch.
        logps, mask: (B, C).
        ref_logps: (B, C); `None` without a reference.
        sampling_logps: (B, C), NaN where they are not known; `None` if the policy itself sampled.

    Returns:
        The largest values (0-d) of metrics that are no means.
    """
    if ref_logps is not None:
        count = mask.sum()
        for name in ESTIMATORS:
            sums.add(f"kl/{name}", masked.total(kl.ESTIMATORS[name](logps, ref_logps), mask).sum(), count)
        sums.add("kl/sequence", *kl_total_and_count(logps, ref_logps, mask))
        sums.add(TO_REFERENCE, masked.total((logps - ref_logps).abs(), mask).sum(), count)
    if sampling_logps is None:
        return {}
    known = mask.bool() & ~sampling_logps.isnan()
    apart = masked.apply((logps - sampling_logps).abs(), known)
    sums.add(TO_SAMPLING, apart.sum(), known.sum())
    return {FARTHEST: apart.max()}


def kl_total_and_count(logps: Tensor, ref_logps: Tensor, mask: Tensor) -> Tensor:
    """(2,): log π/π_ref summed over all unmasked completions, in nats, and the number of these.

    Their quotient is unbiased for the KL of whole completions.
    """
    per_sequence = kl.sequence("k1", logps, ref_logps, mask)
    return torch.stack([per_sequence.sum(), mask.any(1).sum().to(per_sequence.dtype)])


def judge(found: dict[str, float], trainer: Any) -> None:
    """Judge the distances of an optimizer step before the optimizer runs, or of an evaluation batch.

    Args:
        found: Metrics of the step; without those that were not measured.
        trainer: A `RolloutTrainer`. It warns if the weights that sampled are far from the policy.

    Raises:
        WrongInitialLossError: Policy and reference of equal weights differ, so one of them is the wrong model.
    """
    if TO_SAMPLING in found:
        trainer.sampler.judge(found[TO_SAMPLING], trainer)
    distance = found.get(TO_REFERENCE, 0.0)
    is_first = trainer.state.global_step == 0 and trainer.args.disable_dropout
    # The two passes may have run rows of different shapes.
    if (
        is_first
        and distance > (APART_16_BIT if is_rounded(trainer) else APART_32_BIT)
        and policy_is_reference(trainer.model)
    ):
        raise WrongInitialLossError(
            f"Policy and reference have the same weights before the first step, but their log-probabilities differ by "
            f"{distance:.3g} nats per token. The KL would be measured against a wrong reference, so training was stopped."
        )
