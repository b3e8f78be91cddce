"""Measure and correct the difference between the weights that sampled and the policy (`trl_ext.rl.sampling_ratio`)."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from trl_ext.rl import masked
from trl_ext.rl.objectives import ClippedLoss
from trl_ext.rl.sampling_ratio import SamplingRatio, sampling_ratio
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.rollout.sampled import Sampled

MEAN, MAX = "sampling/logp_difference/mean", "sampling/logp_difference/max"
POLICY_RATIO, KL_RATIO = "sampling_ratio", "sampling_kl_ratio"
"""Weights of a batch: of the policy loss (B, C), and of a KL in the loss (B, 1) or (B, C)."""

SMALLEST = 1e-8
"""Smallest weight whose logarithm is taken, as in TRL."""


def record(sampled: Sampled, accelerator: Accelerator, history: dict[str, list[float]]) -> float:
    """Add mean and maximum of |log π_train − log π_sample| over all tokens and processes to `history`, in nats.

    Returns:
        The mean.
    """
    known = sampled.mask.bool() & ~sampled.sampling_logps.isnan()
    apart = masked.apply((sampled.logps - sampled.sampling_logps).abs(), known)
    total, count = accelerator.reduce(
        torch.stack([apart.sum(), known.sum().to(apart.dtype)]), reduction="sum"
    ).tolist()
    history[MEAN].append(total / max(count, 1))
    history[MAX].append(accelerator.gather(apart.max()).max().item())
    return history[MEAN][-1]


def targets(sampled: Sampled, args: Any, sums: MeanMetrics) -> dict[str, Tensor]:
    """The weights of a rollout's policy loss, and of a KL in the loss; empty if the policy itself sampled.

    A KL of whole completions (`kl_level: sequence`) is weighted per completion, one of tokens per token, whatever the
    policy loss has.

    Args:
        args: The configuration of a trainer with a policy loss.
        sums: Receives the mean weight and the share of weights that a bound changed.
    """
    if sampled.sampling_logps is None or not args.vllm_importance_sampling_correction:
        return {}
    mode = args.vllm_importance_sampling_mode
    ratio = _ratio(sampled, args, mode)
    count = sampled.mask.sum()
    sums.add("sampling/weight/mean", masked.total(ratio.weights, sampled.mask).sum(), count)
    sums.add("sampling/weight/bounded", ratio.is_bounded.sum(), count)
    found = {POLICY_RATIO: ratio.weights}
    if args.kl_placement == "loss":
        of_kl = _ratio(sampled, args, f"{args.kl_level}_{mode.partition('_')[2]}").weights
        found[KL_RATIO] = of_kl if args.kl_level == "token" else _of_completion(of_kl, sampled.mask)
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


def _ratio(sampled: Sampled, args: Any, mode: str) -> SamplingRatio:
    return sampling_ratio(
        sampled.logps,
        sampled.sampling_logps,
        sampled.mask,
        mode=mode,
        clip_max=args.vllm_importance_sampling_clip_max,
        clip_min=args.vllm_importance_sampling_clip_min,
    )


def _of_completion(weights: Tensor, mask: Tensor) -> Tensor:
    """(B, 1), from weights (B, C) that are equal over the tokens of a completion."""
    return (masked.total(weights, mask) / mask.sum(1).clamp(min=1)).unsqueeze(1)
