"""Undo what generation does to a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from torch import nn


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Inside, `model` may be cast and switched to training; afterwards its tensors and mode are restored.

    TRL's continuous batching casts the whole model permanently, and leaves it in training mode even after an evaluation.
    """
    before = [(tensor, tensor.data) for tensor in chain(model.parameters(), model.buffers())]
    was_training = model.training
    try:
        yield
    finally:
        for tensor, data in before:
            tensor.data = data
        model.train(was_training)
