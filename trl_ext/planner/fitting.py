"""What fits a card: the fastest choice of rows and recomputed layers, and the largest of each thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from trl_ext.batching.budget import LARGEST_ROW, STEP, time_per_token
from trl_ext.planner import memory
from trl_ext.planner.memory import GIB, VARLEN
from trl_ext.planner.request import Request
from trl_ext.planner.shape import Shape


@dataclass(frozen=True)
class Overhead:
    """What live tensors do not explain. Refitted by `trl-ext plan --calibrate`.

    Attributes:
        allocator: Bytes reserved per byte of activations: blocks are rounded up and cut into pieces.
        context: Bytes of the CUDA context, its libraries and their workspaces.
    """

    allocator: float = 1.08
    context: float = 0.6 * GIB


@dataclass(frozen=True)
class Fit:
    """Judges choices for one request on one card.

    Attributes:
        budget: Bytes a run may take in all.
        kernel: How the card computes the attention of packed rows.
    """

    request: Request
    budget: float
    overhead: Overhead = Overhead()
    kernel: str = VARLEN

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return self.request.shape.layers

    def static(self, shape: Shape | None = None) -> float:
        """Bytes before the first row: weights, adapter, gradients, optimizer."""
        shape = shape or self.request.shape
        storage = self.request.storage
        return sum(memory.weights(shape, storage).values()) + sum(memory.training_state(shape, storage).values())

    def total(
        self, tokens: int, checkpointed_layers: int, *, shape: Shape | None = None, width: int | None = None
    ) -> float:
        """Bytes a run takes with rows of so many tokens, of another model or other padded sequences if given."""
        shape = shape or self.request.shape
        row = self.request.row(tokens, self.kernel, width)
        _, parts = memory.activations(shape, row, self.request.storage, checkpointed_layers)
        return self.static(shape) + self.overhead.allocator * sum(parts.values()) + self.overhead.context

    def fits(self, tokens: int, checkpointed_layers: int, **other: Any) -> bool:
        """Whether a row of so many tokens fits the card with so many layers recomputed."""
        return self.total(tokens, checkpointed_layers, **other) <= self.budget

    @property
    def most_checkpointed(self) -> int:
        """Layers that may be recomputed: all, unless the recipe forbids it."""
        return 0 if self.request.training.checkpointing is False else self.layers

    def largest_row(self) -> int:
        """Most tokens of a row, everything recomputed; 0 if not even one fits."""
        return _largest(lambda tokens: self.fits(tokens, self.most_checkpointed), 2**24)

    def longest_sequence(self) -> int:
        """Largest `max_length` with which the longest example fits, everything recomputed; 0 if none does."""
        count, sequences = self.most_checkpointed, self.request.training.sequences
        return _largest(lambda length: self.fits(sequences * length, count, width=length), 2**24)

    def largest_rank(self) -> int | None:
        """Largest LoRA rank with which the longest example fits, everything recomputed; `None` without an adapter."""
        shape, adapter = self.request.shape, self.request.shape.adapter
        if adapter is None:
            return None

        def with_rank(rank: int) -> Shape:
            factor = rank / adapter.rank
            scaled = replace(
                adapter,
                rank=rank,
                parameters=round(adapter.parameters * factor),
                layer_parameters=round(adapter.layer_parameters * factor),
            )
            return replace(shape, adapter=scaled)

        tokens = self.request.training.row_tokens or self.request.longest
        return _largest(lambda rank: self.fits(tokens, self.most_checkpointed, shape=with_rank(rank)), shape.hidden)

    def least_checkpointed(self, tokens: int) -> int | None:
        """Fewest layers to recompute for rows of so many tokens; `None` if they do not fit."""
        counts = range(self.layers + 1)
        if self.request.training.checkpointing is not None:
            counts = [self.layers if self.request.training.checkpointing else 0]
        return next((count for count in counts if self.fits(tokens, count)), None)

    def choose(self) -> tuple[int, int] | None:
        """Tokens of a row and recomputed layers that take least time per token, by the rule of the run itself.

        Returns:
            `None` if the longest example fits with no choice.
        """
        longest = self.request.longest
        sizes = [self.request.training.row_tokens]
        if self.request.training.row_tokens is None:
            sizes = [longest, *range(max(longest // STEP * STEP, STEP), max(LARGEST_ROW, longest) + 1, STEP)]
        choices = []
        for tokens in sizes:
            count = self.least_checkpointed(tokens) if tokens >= longest or self.request.training.row_tokens else None
            if count is not None:
                choices.append((time_per_token(tokens, count, self.layers), tokens, count))
        return min(choices)[1:] if choices else None


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, if smaller ones do too; 0 if 1 does not."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
