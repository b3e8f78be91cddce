"""A guard against what generation does to a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from torch import nn


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Inside, `model` may be cast and switched to training; afterwards tensors and mode are what they were.

    TRL's continuous batching casts the whole model for good, and leaves it in training mode after an evaluation too.
    """
    before = [(tensor, tensor.data) for tensor in chain(model.parameters(), model.buffers())]
    was_training = model.training
    try:
        yield
    finally:
        for tensor, data in before:
            tensor.data = data
        model.train(was_training)
