"""Packed rows: completions of one prompt share it, and several prompts share one row without padding.

A prompt and its completions are laid out once, however many examples of the row they occur in,

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
        """The same with its tensors on `device`."""
        return Layout(self.segments, self.positions.to(device))


@dataclass
class PackedRow:
    """One row and where its predictions go.

    Attributes:
        input_ids, position_ids, labels: Shape (1, T); a label is the next token of the same branch, −100 elsewhere.
        layout: Visibility of the row's T tokens.
        branch: Number of the branch each scored position belongs to, shape (N,).
        offset: Place in that branch's completion, shape (N,).
        branches: How many branches the row holds, those of empty completions included.
        completions: Number of the branch that computes each completion, shape (S,); several may share one.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    layout: Layout
    branch: torch.Tensor
    offset: torch.Tensor
    branches: int
    completions: torch.Tensor

    def to(self, device: torch.device) -> "PackedRow":
        """The same with its tensors on `device`."""
        fields = (self.input_ids, self.position_ids, self.labels, self.layout, self.branch, self.offset)
        return PackedRow(*(field.to(device) for field in fields), self.branches, self.completions.to(device))

    def scatter(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the scored positions, (N,), as one row per completion, zero-padded: (S, longest)."""
        width = int(self.offset.max()) + 1 if len(self.offset) else 1
        flat = values.new_zeros(self.branches * width)
        by_branch = flat.index_put((self.branch * width + self.offset,), values).view(self.branches, width)
        return by_branch[self.completions]


def join(trees: Sequence[Tree]) -> tuple[list[Tree], list[int]]:
    """The same trees with every prompt once, and every completion of it once.

    Returns:
        The joined trees, and for every completion of `trees`, tree by tree, its number among theirs.
    """
    prompts: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
    for tree in trees:
        prompts.setdefault(tuple(tree.prompt), {}).update(dict.fromkeys(map(tuple, tree.completions)))
    branches = [(prompt, completion) for prompt, completions in prompts.items() for completion in completions]
    number = {branch: i for i, branch in enumerate(branches)}
    joined = [Tree(list(prompt), list(map(list, completions))) for prompt, completions in prompts.items()]
    return joined, [number[tuple(tree.prompt), tuple(completion)] for tree in trees for completion in tree.completions]


def pack_joined(trees: Sequence[Tree], order: Sequence[int] | None = None) -> PackedRow:
    """Lay trees out in one row, what they have in common once.

    Args:
        trees: Prompts with their completions.
        order: Numbers of the completions, counted tree by tree, in the order in which the row returns them; as
            they stand if not given.
    """
    joined, branch_of = join(trees)
    row = pack(joined)
    row.completions = torch.tensor([branch_of[i] for i in order] if order is not None else branch_of, dtype=torch.long)
    return row


def pack(trees: Sequence[Tree]) -> PackedRow:
    """Lay trees out in one row as they are. Completions are numbered tree by tree, in the order given."""
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    segments: list[Segment] = []
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
                append(head + completion, len(trunk), shared, is_branch=True)
                scored = len(head) + len(completion) - 1
                branches.extend([number] * scored)
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
        row(branches),
        row(offsets),
        number,
        torch.arange(number),
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


def joined_tokens(trees: Sequence[Tree]) -> int:
    """Tokens the trees take in one row, what they have in common counted once."""
    return sum(tree.tokens for tree in join(trees)[0])


def pack_rows(examples: Sequence[dict], tree_of: Callable[[dict], Tree], row_tokens: int) -> list[list[dict]]:
    """Distribute a step's examples over rows of at most `row_tokens` tokens, those of one prompt side by side.

    Args:
        examples: The examples of one optimizer step on this process.
        tree_of: The tree an example makes.
        row_tokens: Capacity of a row in tokens. An example that is larger gets a row to itself.
    """
    trees = [tree_of(example) for example in examples]
    prompts: dict[tuple[int, ...], list[int]] = {}
    for i, tree in enumerate(trees):
        prompts.setdefault(tuple(tree.prompt), []).append(i)
    groups = [part for members in prompts.values() for part in _split(members, trees, row_tokens)]
    sizes = [joined_tokens([trees[i] for i in group]) for group in groups]
    return [[examples[i] for g in row for i in groups[g]] for row in first_fit(sizes, row_tokens)]


def _split(members: list[int], trees: Sequence[Tree], capacity: int) -> list[list[int]]:
    """The examples of one prompt in as few groups of at most `capacity` tokens as first-fit-decreasing finds."""
    groups: list[list[int]] = []
    for i in sorted(members, key=lambda i: -trees[i].tokens):
        fitting = (g for g in groups if joined_tokens([trees[j] for j in (*g, i)]) <= capacity)
        group = next(fitting, None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    return groups
