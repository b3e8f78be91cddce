"""Pack rows: completions of one prompt share it, and several prompts share one row without padding.

A prompt and its completions are laid out once, even if they occur in several examples of the row,

    prompt[:-1] │ prompt[-1] completion₁ │ prompt[-1] completion₂ │ …
    positions    0 … P−2   P−1 …            P−1 …

Both branches continue the prompt and cannot attend to each other, nor to other prompts of the row. The last token of the
prompt is repeated at the start of every branch, so that each completion token is predicted by the token before it, as in
an ordinary sequence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from trl_ext.batching.kernels import Sequences, sequences
from trl_ext.batching.transfer import from_numbers, to_device


class Tree(NamedTuple):
    """One prompt with the completions that continue it, as token ids after truncation."""

    prompt: list[int]
    completions: list[list[int]]

    @property
    def tokens(self) -> int:
        """Number of tokens of the tree in a row."""
        head = len(self.prompt[-1:])
        return max(len(self.prompt) - 1, 0) + sum(head + len(completion) for completion in self.completions)


class Segment(NamedTuple):
    """Tokens `start … stop` of a row. They attend to `prefix` (the shared prompt, if any) and causally to themselves."""

    start: int
    stop: int
    prefix: tuple[int, int] | None


@dataclass
class Layout:
    """Which tokens of a row attend to which.

    Attributes:
        segments: Prompts and branches in the order of the row.
        positions: Position of each token in its own sequence, shape (T,).
        rows: The padded row that each segment is part of, where a model's mask reads tensors of padded rows; `None` elsewhere.
    """

    segments: list[Segment]
    positions: torch.Tensor
    rows: list[int] | None = None

    @cached_property
    def sequences(self) -> Sequences:
        """The segments in the form that the variable-length kernel takes, on the device of the positions."""
        return sequences(self.segments, self.positions.device)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors of the layout by name, for `on`."""
        return {"positions": self.positions} | self.sequences.tensors

    def on(self, tensors: dict[str, torch.Tensor]) -> "Layout":
        """The same layout with copies of its tensors on another device."""
        layout = Layout(self.segments, tensors["positions"], self.rows)
        layout.__dict__["sequences"] = self.sequences.on(tensors)  # where `cached_property` keeps it
        return layout


@dataclass
class PackedRow:
    """One row, and the completions that its predictions belong to.

    Attributes:
        input_ids, position_ids, labels: Shape (1, T); a label is the next token of the same branch, −100 elsewhere.
        layout: Which of the T tokens attend to which.
        scored: Positions in the row whose next token is scored, shape (N,).
        place: Where the value of each scored token goes in a table of all branches, flattened (branches · width), shape (N,).
        branches: Number of branches of the row, including those of empty completions.
        width: Scored tokens of the longest completion; 1 if no token is scored.
        completions: Branch that computes each completion, shape (S,); completions may share a branch.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    layout: Layout
    scored: torch.Tensor
    place: torch.Tensor
    branches: int
    width: int
    completions: torch.Tensor

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors of the row by name, for `on`."""
        names = ("input_ids", "labels", "scored", "place", "completions")
        return {name: getattr(self, name) for name in names} | self.layout.tensors

    def on(self, tensors: dict[str, torch.Tensor]) -> "PackedRow":
        """The same row with its tensors, or copies of them, on another device."""
        layout = self.layout.on(tensors)
        names = ("input_ids", "labels", "scored", "place", "completions")
        moved = {name: tensors[name] for name in names}
        return replace(self, layout=layout, position_ids=layout.positions[None], **moved)

    def to(self, device: torch.device) -> "PackedRow":
        """Copy to `device`, in one transfer."""
        return self if device.type == "cpu" else self.on(to_device(self.tensors, device))

    def scatter(self, values: torch.Tensor) -> torch.Tensor:
        """Scatter values of the scored positions, (N,), to one zero-padded row per completion: (S, width)."""
        flat = values.new_zeros(self.branches * self.width)
        by_branch = flat.index_put((self.place,), values).view(self.branches, self.width)
        return by_branch[self.completions]


def join(trees: Sequence[Tree]) -> tuple[list[Tree], list[int]]:
    """Merge trees with equal prompts, and equal completions of a prompt.

    Returns:
        The merged trees, and for every completion of `trees`, tree by tree, its index among their completions.
    """
    prompts: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
    for tree in trees:
        prompts.setdefault(tuple(tree.prompt), {}).update(dict.fromkeys(map(tuple, tree.completions)))
    branches = [(prompt, completion) for prompt, completions in prompts.items() for completion in completions]
    number = {branch: i for i, branch in enumerate(branches)}
    joined = [Tree(list(prompt), list(map(list, completions))) for prompt, completions in prompts.items()]
    return joined, [number[tuple(tree.prompt), tuple(completion)] for tree in trees for completion in tree.completions]


def pack_joined(trees: Sequence[Tree], order: Sequence[int] | None = None) -> PackedRow:
    """Lay out trees in one row, with shared prompts and completions only once.

    Args:
        trees: Prompts with their completions.
        order: Indices of the completions, counted tree by tree, in the order in which the row returns them (default:
            their order in `trees`).
    """
    joined, branch_of = join(trees)
    row = pack(joined)
    row.completions = from_numbers([branch_of[i] for i in order] if order is not None else branch_of)
    return row


def pack(trees: Sequence[Tree]) -> PackedRow:
    """Lay out trees in one row without merging them. Completions are counted tree by tree, in the given order."""
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    segments: list[Segment] = []
    scored: list[int] = []
    branches: list[int] = []
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
                count = len(head) + len(completion) - 1
                scored.extend(range(len(ids), len(ids) + count))
                append(head + completion, len(trunk), shared, is_branch=True)
                branches.extend([number] * count)
                offsets.extend(range(count))
            number += 1

    layout = Layout(segments, from_numbers(positions))
    width = max(offsets, default=0) + 1
    return PackedRow(
        from_numbers(ids)[None],
        layout.positions[None],
        from_numbers(labels)[None],
        layout,
        from_numbers(scored),
        from_numbers(branches) * width + from_numbers(offsets),
        number,
        width,
        torch.arange(number),
    )


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Distribute the indices of `lengths` over bins by first-fit-decreasing.

    A length above `capacity` gets a bin of its own.
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


def joined_tokens(trees: Sequence[Tree]) -> int:
    """Number of tokens of the trees in one row, with shared prompts and completions counted once."""
    return sum(tree.tokens for tree in join(trees)[0])


def pack_rows(examples: Sequence[dict], tree_of: Callable[[dict], Tree], row_tokens: int) -> list[list[dict]]:
    """Distribute a step's examples over rows of up to `row_tokens` tokens. Examples with one prompt stay together.

    Args:
        examples: The examples of one optimizer step on this process.
        tree_of: Returns the tree of an example.
        row_tokens: Capacity of a row in tokens. A longer example gets a row of its own.
    """
    trees = [tree_of(example) for example in examples]
    prompts: dict[tuple[int, ...], list[int]] = {}
    for i, tree in enumerate(trees):
        prompts.setdefault(tuple(tree.prompt), []).append(i)
    groups = [part for members in prompts.values() for part in _split(members, trees, row_tokens)]
    sizes = [joined_tokens([trees[i] for i in group]) for group in groups]
    return [[examples[i] for g in row for i in groups[g]] for row in first_fit(sizes, row_tokens)]


def _split(members: list[int], trees: Sequence[Tree], capacity: int) -> list[list[int]]:
    """Distribute the examples of one prompt over groups of up to `capacity` tokens by first-fit-decreasing."""
    head, trunk = len(trees[members[0]].prompt[-1:]), max(len(trees[members[0]].prompt) - 1, 0)
    groups: list[list[int]] = []
    branches: list[set[tuple[int, ...]]] = []  # the different completions of each group
    free: list[int] = []
    for i in sorted(members, key=lambda i: -trees[i].tokens):
        own = set(map(tuple, trees[i].completions))
        added = (sum(head + len(completion) for completion in own - there) for there in branches)
        place, size = next(((g, size) for g, size in enumerate(added) if size <= free[g]), (None, 0))
        if place is None:
            place, size = len(groups), sum(head + len(completion) for completion in own)
            groups.append([])
            branches.append(set())
            free.append(capacity - trunk)
        groups[place].append(i)
        branches[place] |= own
        free[place] -= size
    return groups
