"""Padded rows: the examples of an optimizer step, sorted by length and cut into right-padded batches."""

from collections import UserList
from collections.abc import Callable, Sequence

import torch
from trl.trainer.utils import pad

from trl_ext.batching.packed import Tree

ROW_COST = 40
"""Tokens of padding that are worth one row less. On real pairs it leaves 11 to 12 % of padding, of which 10 lie between
the two sides of a pair."""


class Examples(UserList):
    """Tokenised examples that travel through a dataloader uncollated.

    Not a `list` subclass on purpose: accelerate's `send_to_device` walks into lists and would visit every token
    id; an unknown type passes through untouched.
    """

    def pin_memory(self) -> "Examples":
        """Nothing to pin before collation; without this, torch would visit every token id as well."""
        return self


def cut_rows(
    examples: Sequence[dict], length: Callable[[dict], int], *, sequences: int, row_tokens: int
) -> list[list[dict]]:
    """Cut a step's examples into rows that are padded to their own longest sequence.

    Examples are sorted by length and cut where padded tokens plus `ROW_COST` per row are fewest. The order of examples
    inside a step does not change its result.

    Args:
        examples: The examples of one optimizer step on this process.
        length: Tokens of an example's longest sequence, after truncation.
        sequences: Sequences an example contributes to a row (2 for a pair, 1 for an unpaired completion).
        row_tokens: Upper bound on `sequences × examples × longest length` of a row, padding included. An example
            that is longer on its own still gets a row to itself.
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


def padded_batch(tree: Tree, pad_token_id: int) -> dict[str, torch.Tensor]:
    """A prompt's completions as one right-padded batch, one sequence each: (S, T)."""
    sequences = [torch.tensor(tree.prompt + completion) for completion in tree.completions]
    return {
        "input_ids": pad(sequences, padding_value=pad_token_id, padding_side="right"),
        "attention_mask": pad([torch.ones_like(s) for s in sequences], padding_value=0, padding_side="right"),
        "completion_mask": pad(
            [(torch.arange(len(s)) >= len(tree.prompt)).long() for s in sequences],
            padding_value=0,
            padding_side="right",
        ),
    }
