"""Measure and correct the difference between the weights that sampled and the policy (`trl_ext.rl.sampling_ratio`)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from trl_ext.rl import masked
from trl_ext.rl.objectives import ClippedLoss
from trl_ext.rl.sampling_ratio import SamplingRatio, sampling_ratio
from trl_ext.trainers.common.metrics import MeanMetrics

POLICY_RATIO, KL_RATIO = "sampling_ratio", "sampling_kl_ratio"
"""Weights of a batch: of the policy loss (B, C), and of a KL in the loss (B, 1) or (B, C)."""

SMALLEST = 1e-8
"""Smallest weight whose logarithm is taken, as in TRL."""


def weights(
    logps: Tensor, sampling_logps: Tensor | None, mask: Tensor, args: Any, sums: MeanMetrics
) -> dict[str, Tensor]:
    """The weights of the policy loss, and of a KL in the loss; empty if the policy itself sampled.

    A KL of whole completions (`kl_level: sequence`) is weighted per completion, one of tokens per token, whatever the
    policy loss has.

    Args:
        logps, mask: (B, C), of the policy before the update.
        sampling_logps: (B, C), under the weights that sampled; `None` if these are the policy's.
        args: The configuration of a trainer with a policy loss.
        sums: Receives the mean weight and the share of weights that a bound changed.
    """
    if sampling_logps is None or not args.vllm_importance_sampling_correction:
        return {}

    def ratio(mode: str) -> SamplingRatio:
        clip = {"clip_max": args.vllm_importance_sampling_clip_max, "clip_min": args.vllm_importance_sampling_clip_min}
        return sampling_ratio(logps, sampling_logps, mask, mode=mode, **clip)

    mode, count = args.vllm_importance_sampling_mode, mask.sum()
    of_policy = ratio(mode)
    sums.add("sampling/weight/mean", masked.total(of_policy.weights, mask).sum(), count)
    sums.add("sampling/weight/bounded", of_policy.is_bounded.sum(), count)
    found = {POLICY_RATIO: of_policy.weights}
    if args.kl_placement == "loss":
        of_kl = ratio(f"{args.kl_level}_{mode.partition('_')[2]}").weights
        found[KL_RATIO] = of_kl if args.kl_level == "token" else _of_completion(of_kl, mask)
    return found


def weighted(surrogate: Callable[..., ClippedLoss], args: Any, logps: Tensor, batch: dict[str, Tensor]) -> ClippedLoss:
    """The policy's loss per token, `surrogate(logps, old_logps, advantages, mask)`, times the weights of the batch.

    VESPO weighs whole completions by a function of π/π_old itself. There the weights become part of this ratio, as in TRL.
    """
    old_logps, mask = batch["old_per_token_logps"], batch["loss_mask"]
    ratio = batch.get(POLICY_RATIO)
    if ratio is not None and args.policy_objective == "vespo":
        of_token = ratio.clamp(min=SMALLEST).log()
        if args.vllm_importance_sampling_mode.startswith("sequence"):
            of_token = of_token / mask.sum(1, keepdim=True).clamp(min=1)
        return surrogate(logps, old_logps - of_token, batch["token_advantages"], mask)
    found = surrogate(logps, old_logps, batch["token_advantages"], mask)
    return found if ratio is None else found._replace(losses=found.losses * ratio)


def _of_completion(weights: Tensor, mask: Tensor) -> Tensor:
    """(B, 1), from weights (B, C) that are equal over the tokens of a completion."""
    return (masked.total(weights, mask) / mask.sum(1).clamp(min=1)).unsqueeze(1)
