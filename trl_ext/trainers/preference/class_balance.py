"""Balance desirable and undesirable examples: spread both evenly over an epoch, and weight the smaller class more."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler

from trl_ext.support.counts import count

CLASS_WEIGHTS = ("desirable_weight", "undesirable_weight")


class ClassMixedSampler(Sampler[int]):
    """Shuffle every epoch so that each class is spread evenly over it.

    The epoch is divided into n equal intervals for a class of n examples, and the k-th shuffled example is placed at a
    random point of the k-th interval. So any window of an epoch has nearly the class proportions of the dataset. Datasets
    unpaired from pairs are ordered by class; read in order, they would give steps with a single class.

    Args:
        labels: Class of every example.
        seed: The order depends only on `seed` and the epoch, so it is the same on all processes and after a resume.
    """

    def __init__(self, labels: Sequence[bool], seed: int) -> None:
        self.labels = torch.as_tensor(labels, dtype=torch.long)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order the next iteration uses."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        position = torch.empty(len(self.labels), dtype=torch.float64)
        for label in self.labels.unique():
            members = (self.labels == label).nonzero().squeeze(1)
            order = torch.randperm(len(members), generator=generator)
            offsets = torch.rand(len(members), generator=generator, dtype=torch.float64)
            position[members[order]] = (torch.arange(len(members)) + offsets) / len(members)
        yield from position.argsort().tolist()


def has_auto_weights(parts: dict[str, dict[str, Any]]) -> bool:
    """Whether a class weight of one of the losses is "auto"."""
    return any(values.get(name) == "auto" for values in parts.values() for name in CLASS_WEIGHTS)


def counts_of(dataset: Any) -> dict[str, int]:
    """Examples of each class, by the name of its weight.

    Raises:
        ValueError: The dataset is streamed, or holds a single class.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "Class weights 'auto' need the number of examples of each class, which a streamed dataset does not have. "
            "Give numbers, or do not stream the dataset."
        )
    labels = dataset["label"]
    desirable = sum(map(bool, labels))
    counts = dict(zip(CLASS_WEIGHTS, (desirable, len(labels) - desirable), strict=True))
    if not all(counts.values()):
        raise ValueError(
            f"Class weights 'auto' need examples of both classes. The training data has {desirable} desirable and "
            f"{count(len(labels) - desirable, 'undesirable examples')}. Give numbers instead."
        )
    return counts


def balanced(values: dict[str, Any], counts: dict[str, int]) -> dict[str, float]:
    """Replace weights "auto" by numbers with λ_D·n_D = λ_U·n_U. If both are "auto", the larger class has weight 1.

    Args:
        values: Hyperparameters of a loss.
        counts: Examples of each class, by the name of its weight.
    """
    fixed = [values[name] * counts[name] for name in CLASS_WEIGHTS if values[name] != "auto"]
    mass = fixed[0] if fixed else max(counts.values())
    return {name: mass / counts[name] for name in CLASS_WEIGHTS if values[name] == "auto"}
