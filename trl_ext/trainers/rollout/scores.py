"""Add up the rewards of several sources to one score per completion."""

from typing import Any

from torch import Tensor, nan

from trl_ext.rl.several_rewards import normalised_sums


def of(trainer: Any, rewards: Tensor, count: int) -> Tensor:
    """Scores (B,) of the completions of this process; NaN for one to which no source applies.

    Args:
        trainer: A `RolloutTrainer`.
        rewards: (completions of all processes, sources), NaN where a source does not apply.
        count: Completions of each process.
    """
    return _own(trainer, weighted(rewards, trainer.reward_weights, trainer.reward_clip_range), count)


def normalised(trainer: Any, rewards: Tensor, count: int, size: int) -> Tensor | None:
    """What completions are compared by (B,), if not by their scores; the arguments are those of `of`.

    Args:
        size: Completions of each prompt.
    """
    if getattr(trainer.args, "multi_objective_aggregation", "sum_then_normalize") == "sum_then_normalize":
        return None
    return _own(trainer, normalised_sums(rewards, trainer.reward_weights, size), count)


def weighted(rewards: Tensor, weights: Tensor, clip_range: tuple[float, float] | None) -> Tensor:
    """Weighted sum (B,) of rewards (B, sources), clipped if asked for; NaN where no source applied."""
    scores = (rewards * weights.to(rewards.device)).nansum(dim=1)
    if clip_range:
        scores = scores.clamp(*clip_range)
    return scores.masked_fill(rewards.isnan().all(dim=1), nan)


def _own(trainer: Any, values: Tensor, count: int) -> Tensor:
    """Those of this process, of values of all processes."""
    start = trainer.accelerator.process_index * count
    return values[start : start + count]
