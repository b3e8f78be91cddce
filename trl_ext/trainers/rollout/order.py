"""Order the prompts of a run, and the completions of a rollout."""

from itertools import pairwise
from typing import Any

import torch
from trl.trainer.utils import RepeatSampler


class ResumableSampler(RepeatSampler):
    """TRL's sampler with an order that depends only on seed and epoch; TRL's own starts every resumed epoch like the first."""

    def set_epoch(self, epoch: int) -> None:
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)


def shuffling(args: Any) -> dict[str, Any]:
    """Attributes of TRL's module while a rollout is cut into micro-batches: how it is shuffled if several steps learn from it."""
    is_one_step = args.gradient_accumulation_steps % args.steps_per_generation == 0
    return {} if is_one_step else {"shuffle_sequence_dict": in_groups}


def in_groups(batch: dict[str, Any]) -> dict[str, Any]:
    """What TRL's `shuffle_sequence_dict` does, with neighbours of equal prompts as one unit.

    So the completions of a prompt share it in the rows of an update, also if a rollout is learnt from in several steps. Where no neighbours have equal prompts, the order is TRL's.

    Args:
        batch: A rollout of this process: tensors and lists with one entry per completion or pair, `None`, and 0-d tensors.
    """
    changes = [(batch[name][1:] != batch[name][:-1]).any(1) for name in ("prompt_ids", "prompt_mask")]
    starts = [0, *(torch.stack(changes).any(0).nonzero().flatten() + 1).tolist(), len(batch["prompt_ids"])]
    groups = [range(*ends) for ends in pairwise(starts)]
    order = [i for group in torch.randperm(len(groups)).tolist() for i in groups[group]]
    return {name: _reordered(value, order) for name, value in batch.items()}


def _reordered(value: Any, order: list[int]) -> Any:
    if value is None or (isinstance(value, torch.Tensor) and value.ndim == 0):
        return value
    return value[order] if isinstance(value, torch.Tensor) else [value[i] for i in order]
