"""Read the token ids of tokenised examples: prompts with their completions, truncated."""

from dataclasses import dataclass
from typing import Any

import torch

from trl_ext.batching.packed import Tree, pack_joined
from trl_ext.batching.transfer import to_device


@dataclass(frozen=True)
class ExampleTokens:
    """Token ids of examples of one kind, cut to `max_length`.

    Attributes:
        args: The trainer's configuration; `max_length` and `device` are read.
        completions: Columns of the completions, in the order in which they are scored.
        columns: Further columns that the loss or the metrics read, if an example has them.
    """

    args: Any
    completions: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def per_example(self) -> int:
        """Number of sequences of an example: 2 for a pair."""
        return len(self.completions)

    def tree(self, example: dict) -> Tree:
        """The prompt with its completions, each sequence cut to `max_length`."""
        return self._truncated(example["prompt_ids"], [example[name] for name in self.completions])

    def length(self, example: dict) -> int:
        """Tokens of the example's longest sequence, after truncation."""
        longest = len(example["prompt_ids"]) + max(len(example[name]) for name in self.completions)
        return longest if self.args.max_length is None else min(longest, self.args.max_length)

    def count(self, example: dict) -> int:
        """Tokens of all sequences. The prompt counts once per completion, as in TRL."""
        return _count(self.tree(example))

    def sequences(self, row: list[dict]) -> list[tuple[list[int], list[int]]]:
        """Prompt and completion ids of every completion, in the order of scoring: all chosen, then all rejected."""
        trees = [self.tree(example) for example in row]
        return [(tree.prompt, tree.completions[side]) for side in range(self.per_example) for tree in trees]

    @property
    def learned_columns(self) -> tuple[str, ...]:
        """Columns that say of each token of a completion whether it is learned, or only read (`thoughts: masked`)."""
        return tuple(f"{name.removesuffix('_ids')}_learned" for name in self.completions)

    def learned(self, row: list[dict]) -> list[list[bool]] | None:
        """For every completion, in the order of scoring, whether each of its scored tokens is learned; `None` if all are."""
        names = self.learned_columns
        if names[0] not in row[0]:
            return None
        return [self._scored(example["prompt_ids"], example[name]) for name in names for example in row]

    def _scored(self, prompt: list[int], flags: list[bool]) -> list[bool]:
        """The flags of the tokens that are left after truncation and have a token before them."""
        limit = self.args.max_length
        keeps_end = getattr(self.args, "truncation_mode", "keep_start") == "keep_end"
        if limit is not None and not keeps_end:
            flags = flags[: max(limit - len(prompt), 0)]
        scored = flags if prompt else flags[1:]
        return scored[max(len(scored) - (limit - 1), 0) :] if limit is not None and keeps_end else scored

    def pack(self, row: list[dict]) -> dict[str, Any]:
        """Pack a row, and add the columns of its examples that the loss and the metrics read."""
        trees = [self.tree(example) for example in row]
        # chosen, rejected, chosen, … become all chosen, then all rejected, as in TRL's collator
        sides = self.per_example
        order = [sides * i + side for side in range(sides) for i in range(len(row))]
        packed, device = pack_joined(trees, order), self.args.device
        columns = self.values(row)
        if device.type != "cpu":
            moved = to_device(packed.tensors | columns, device)
            packed, columns = packed.on(moved), {name: moved[name] for name in columns}
        return {"packed": packed, "num_tokens": sum(map(_count, trees)), **columns}

    def values(self, row: list[dict]) -> dict[str, torch.Tensor]:
        """The further columns of a row's examples, (B,) each."""
        return {name: torch.tensor([example[name] for example in row]) for name in self.columns if name in row[0]}

    def with_two_completions(self, example: dict, examples: list[dict]) -> Tree:
        """The prompt of an example with at least two completions, so that attention between them would be noticed.

        Args:
            example: The example.
            examples: If `example` has a single completion, the second is taken from one of these.
        """
        if self.per_example > 1:
            return self.tree(example)
        (name,) = self.completions
        other = next((e for e in examples if e[name] != example[name]), example)
        return self._truncated(example["prompt_ids"], [example[name], other[name]])

    def _truncated(self, prompt: list[int], completions: list[list[int]]) -> Tree:
        room = None if self.args.max_length is None else max(self.args.max_length - len(prompt), 0)
        return Tree(prompt[: self.args.max_length], [completion[:room] for completion in completions])


def _count(tree: Tree) -> int:
    return sum(len(tree.prompt) + len(completion) for completion in tree.completions)
