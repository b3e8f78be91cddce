"""Shuffling that spreads both classes evenly, so that every step sees both."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class ClassMixedSampler(Sampler[int]):
    """A fresh shuffle every epoch in which each class is spread evenly over the epoch.

    The k-th of a class's n shuffled examples lands at a random point of the k-th of n equal stretches, so any
    window of an epoch holds the classes in nearly the proportion of the whole set. Datasets unpaired from pairs
    come as blocks of one class; reading them in order feeds single-class steps.

    Args:
        labels: Class of every example.
        seed: The order is a function of `seed` and the epoch alone, hence equal on all processes and after a resume.
    """

    def __init__(self, labels: Sequence[bool], seed: int) -> None:
        self.labels = torch.as_tensor(labels, dtype=torch.long)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch from the next iteration on."""
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
