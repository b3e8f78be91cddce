"""Choose the fastest row length and number of checkpointed layers that fit a card, and find the limits."""

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
    """Memory beyond the live tensors. `trl-ext plan --calibrate` refits it.

    Attributes:
        allocator: Reserved bytes per byte of activations: the allocator rounds blocks up and splits them.
        context: Bytes of the CUDA context, its libraries and their workspaces.
    """

    allocator: float = 1.08
    context: float = 0.6 * GIB


@dataclass(frozen=True)
class Fit:
    """Evaluates choices for one request on one card.

    Attributes:
        request: The recipe in numbers.
        budget: Total bytes that a run may use.
        overhead: Memory beyond the live tensors.
        kernel: Attention implementation of packed rows on the card.
    """

    request: Request
    budget: float
    overhead: Overhead = Overhead()
    kernel: str = VARLEN

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return self.request.shape.layers

    def static(self, shape: Shape | None = None) -> float:
        """Bytes before the first row: weights, adapter, gradients, optimizer, and what samples completions."""
        shape = shape or self.request.shape
        storage = self.request.storage
        sampler = self.request.sampling.static(shape, storage)
        parts = memory.weights(shape, storage), memory.training_state(shape, storage), sampler
        return sum(sum(part.values()) for part in parts)

    def total(
        self, tokens: int, checkpointed_layers: int, *, shape: Shape | None = None, width: int | None = None
    ) -> float:
        """Bytes of a run with rows of `tokens` tokens; for another model or padded sequences of another width if given."""
        shape = shape or self.request.shape
        row = self.request.row(tokens, self.kernel, width)
        _, parts = memory.activations(shape, row, self.request.storage, checkpointed_layers)
        return self.static(shape) + self.overhead.allocator * sum(parts.values()) + self.overhead.context

    def fits(self, tokens: int, checkpointed_layers: int, **other: Any) -> bool:
        """Whether a row of `tokens` tokens fits the card with this number of checkpointed layers."""
        return self.total(tokens, checkpointed_layers, **other) <= self.budget

    @property
    def most_checkpointed(self) -> int:
        """Maximum number of checkpointed layers: all, unless the recipe turns checkpointing off."""
        return 0 if self.request.training.checkpointing is False else self.layers

    def largest_row(self) -> int:
        """Maximum tokens of a row with `most_checkpointed` layers; 0 if no row fits."""
        return _largest(lambda tokens: self.fits(tokens, self.most_checkpointed), 2**24)

    def longest_sequence(self) -> int:
        """Largest `max_length` with which the longest example fits with `most_checkpointed` layers; 0 if none does."""
        count, sequences = self.most_checkpointed, self.request.training.sequences
        return _largest(lambda length: self.fits(sequences * length, count, width=length), 2**24)

    def largest_rank(self) -> int | None:
        """Largest LoRA rank with which the longest example fits with `most_checkpointed` layers; `None` without a new adapter."""
        shape, adapter = self.request.shape, self.request.shape.adapter
        if adapter is None or self.request.is_continued:
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
        """Smallest number of checkpointed layers with which rows of `tokens` tokens fit; `None` if they do not fit."""
        counts = range(self.layers + 1)
        if self.request.training.checkpointing is not None:
            counts = [self.layers if self.request.training.checkpointing else 0]
        return next((count for count in counts if self.fits(tokens, count)), None)

    def choose(self) -> tuple[int, int] | None:
        """Row length and number of checkpointed layers with the least time per token, by the same rule as in a run.

        Returns:
            Tokens and layers; `None` if the longest example does not fit at all.
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
    """The largest number up to `most` that fits, by bisection; 0 if 1 does not fit."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
