"""Cut the examples of an optimizer step, sorted by length, into right-padded batches."""

from collections import UserList
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from trl.trainer.utils import pad

from trl_ext.batching.packed import Tree

ROW_COST = 40
"""Cost of a row, in tokens of padding. On real pairs, 11 to 12 % of the tokens are then padding, 10 of them because the
two completions of a pair differ in length."""


class Examples(UserList):
    """Tokenised examples that pass through a dataloader without being collated.

    It is not a subclass of `list`, because accelerate's `send_to_device` would visit every token id of a list. It leaves
    unknown types as they are.

    Attributes:
        collated: The tensors of TRL's collator where an evaluation needs them. Text as an index reads them, as
            transformers' loop does for `compute_metrics`.
    """

    collated: Mapping[str, Any] = MappingProxyType({})

    def __getitem__(self, key: Any) -> Any:
        return self.collated[key] if isinstance(key, str) else super().__getitem__(key)

    def pin_memory(self) -> "Examples":
        """Do nothing: there are no tensors yet. Without this method, torch would visit every token id."""
        return self


def cut_rows(
    examples: Sequence[dict], length: Callable[[dict], int], *, sequences: int, row_tokens: int
) -> list[list[dict]]:
    """Cut a step's examples into rows, each padded to its longest sequence.

    Examples are sorted by length and cut so that the number of tokens, plus `ROW_COST` per row, is smallest. The order of
    the examples in a step does not change its result.

    Args:
        examples: The examples of one optimizer step on this process.
        length: Tokens of an example's longest sequence, after truncation.
        sequences: Sequences an example contributes to a row (2 for a pair, 1 for an unpaired completion).
        row_tokens: Maximum of `sequences × examples × longest length` of a row, padding included. A longer example gets a
            row of its own.
    """
    ordered = sorted(examples, key=length, reverse=True)
    widths = [sequences * length(example) for example in ordered]
    costs, starts = [0], [0]  # of the best cut of the first n examples, and where its last row starts
    for stop in range(1, len(ordered) + 1):
        options = []
        for start in range(stop - 1, -1, -1):
            size = (stop - start) * widths[start]
            if size > row_tokens and options:
                break  # and any earlier start makes a larger row
            options.append((costs[start] + size + ROW_COST, start))
        cost, start = min(options)
        costs.append(cost)
        starts.append(start)
    rows, stop = [], len(ordered)
    while stop:
        rows.append(ordered[starts[stop] : stop])
        stop = starts[stop]
    return rows[::-1]


def padded_batch(trees: Sequence[Tree], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Collate the completions of prompts, one sequence each, into a right-padded batch (S, T)."""
    pairs = [(tree.prompt, completion) for tree in trees for completion in tree.completions]
    sequences = [torch.tensor(prompt + completion) for prompt, completion in pairs]
    return {
        "input_ids": pad(sequences, padding_value=pad_token_id, padding_side="right"),
        "attention_mask": pad([torch.ones_like(s) for s in sequences], padding_value=0, padding_side="right"),
        "completion_mask": pad(
            [(torch.arange(len(s)) >= len(prompt)).long() for s, (prompt, _) in zip(sequences, pairs, strict=True)],
            padding_value=0,
            padding_side="right",
        ),
    }
