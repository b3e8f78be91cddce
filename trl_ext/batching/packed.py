"""Packed rows: completions of one prompt share it, and several prompts share one row without padding.

A prompt and its completions are laid out once,

    prompt[:-1] │ prompt[-1] completion₁ │ prompt[-1] completion₂ │ …
    positions    0 … P−2   P−1 …            P−1 …

Both branches go on at the prompt's end and cannot see each other; other prompts of the row are invisible too. The
prompt's last token is repeated at the head of every branch, so that each completion token has its own predictor one
place before it, as in an ordinary sequence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from trl_ext.batching.kernels import Sequences, sequences


class Tree(NamedTuple):
    """One prompt with the completions that continue it, as token ids after truncation."""

    prompt: list[int]
    completions: list[list[int]]

    @property
    def tokens(self) -> int:
        """Tokens the tree takes in a row."""
        head = len(self.prompt[-1:])
        return max(len(self.prompt) - 1, 0) + sum(head + len(completion) for completion in self.completions)


class Segment(NamedTuple):
    """Tokens `start … stop` of a row; they see `prefix` (the shared prompt, if any) and themselves causally."""

    start: int
    stop: int
    prefix: tuple[int, int] | None


@dataclass
class Layout:
    """Who may see whom in one row.

    Attributes:
        segments: Prompts and branches in the order of the row.
        positions: Position of each token in its own sequence, shape (T,).
    """

    segments: list[Segment]
    positions: torch.Tensor

    @cached_property
    def sequences(self) -> Sequences:
        """The segments as the variable-length kernel wants them, on the device of the positions."""
        return sequences(self.segments, self.positions.device)

    def to(self, device: torch.device) -> "Layout":
        return Layout(self.segments, self.positions.to(device))


@dataclass
class PackedRow:
    """One row and where its predictions go.

    Attributes:
        input_ids, position_ids, labels: Shape (1, T); a label is the next token of the same branch, −100 elsewhere.
        layout: Visibility of the row's T tokens.
        completion: Number of the completion each scored position belongs to, shape (N,).
        offset: Place in that completion, shape (N,).
        completions: How many completions the row holds.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    layout: Layout
    completion: torch.Tensor
    offset: torch.Tensor
    completions: int

    def to(self, device: torch.device) -> "PackedRow":
        fields = (self.input_ids, self.position_ids, self.labels, self.layout, self.completion, self.offset)
        return PackedRow(*(field.to(device) for field in fields), self.completions)

    def renumber(self, order: Sequence[int]) -> "PackedRow":
        """The same row with completion i counted as number `order[i]`."""
        self.completion = torch.tensor(order, dtype=torch.long)[self.completion]
        return self

    def scatter(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the scored positions, (N,), as one row per completion, zero-padded: (completions, longest)."""
        width = int(self.offset.max()) + 1 if len(self.offset) else 1
        flat = values.new_zeros(self.completions * width)
        return flat.index_put((self.completion * width + self.offset,), values).view(self.completions, width)


def pack(trees: Sequence[Tree]) -> PackedRow:
    """Lay trees out in one row. Completions are numbered tree by tree, in the order given."""
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    segments: list[Segment] = []
    completion_of: list[int] = []
    offsets: list[int] = []
    number = 0

    def append(tokens: list[int], start: int, prefix: tuple[int, int] | None, is_branch: bool) -> None:
        if not tokens:
            return
        segments.append(Segment(len(ids), len(ids) + len(tokens), prefix))
        ids.extend(tokens)
        positions.extend(range(start, start + len(tokens)))
        labels.extend([*tokens[1:], -100] if is_branch else [-100] * len(tokens))

    for tree in trees:
        trunk, head = tree.prompt[:-1], tree.prompt[-1:]
        shared = (len(ids), len(ids) + len(trunk)) if trunk else None
        append(trunk, 0, None, is_branch=False)
        for completion in tree.completions:
            if completion:
                append(head + completion, len(trunk), shared, is_branch=True)
                scored = len(head) + len(completion) - 1
                completion_of.extend([number] * scored)
                offsets.extend(range(scored))
            number += 1

    def row(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long)

    layout = Layout(segments, row(positions))
    return PackedRow(
        row(ids)[None],
        layout.positions[None],
        row(labels)[None],
        layout,
        row(completion_of),
        row(offsets),
        number,
    )


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in as few bins as first-fit-decreasing finds.

    A length beyond `capacity` gets a bin to itself.
    """
    bins: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((b for b, room in enumerate(free) if room >= lengths[index]), None)
        if place is None:
            bins.append([])
            free.append(capacity)
            place = len(bins) - 1
        bins[place].append(index)
        free[place] -= lengths[index]
    return bins


def pack_rows(examples: Sequence[dict], tree_of: Callable[[dict], Tree], row_tokens: int) -> list[list[dict]]:
    """Distribute a step's examples over rows of at most `row_tokens` tokens.

    Args:
        examples: The examples of one optimizer step on this process.
        tree_of: The tree an example makes.
        row_tokens: Capacity of a row in tokens.
    """
    lengths = [tree_of(example).tokens for example in examples]
    return [[examples[i] for i in chosen] for chosen in first_fit(lengths, row_tokens)]
