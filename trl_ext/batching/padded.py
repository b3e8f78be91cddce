"""Padded rows: the examples of an optimizer step, sorted by length and cut into right-padded batches."""

from collections import UserList
from collections.abc import Callable, Sequence

import torch
from trl.trainer.utils import pad

from trl_ext.batching.packed import Tree


class Examples(UserList):
    """Tokenised examples that travel through a dataloader uncollated.

    Not a `list` subclass on purpose: accelerate's `send_to_device` walks into lists and would visit every token
    id; an unknown type passes through untouched.
    """

    def pin_memory(self) -> "Examples":
        """Nothing to pin before collation; without this, torch would visit every token id as well."""
        return self


def cut_rows(
    examples: Sequence[dict],
    length: Callable[[dict], int],
    *,
    sequences: int,
    row_tokens: int | None = None,
    row_examples: int | None = None,
) -> list[list[dict]]:
    """Cut a step's examples into rows that are padded to their own longest sequence.

    Sorting by length first keeps padding low; the order of examples inside a step does not change its result.

    Args:
        examples: The examples of one optimizer step on this process.
        length: Tokens of an example's longest sequence, after truncation.
        sequences: Sequences an example contributes to a row (2 for a pair, 1 for an unpaired completion).
        row_tokens: Upper bound on `sequences × examples × longest length` of a row, padding included. An example
            that is longer on its own still gets a row to itself. `None`: no bound.
        row_examples: Upper bound on the examples of a row. `None`: no bound.
    """
    rows: list[list[dict]] = []
    for example in sorted(examples, key=length, reverse=True):
        row = rows[-1] if rows else None
        # Descending order: the first example of a row is its longest, so the row's width never grows.
        fits = (
            row is not None
            and (row_examples is None or len(row) < row_examples)
            and (row_tokens is None or sequences * (len(row) + 1) * length(row[0]) <= row_tokens)
        )
        if fits:
            row.append(example)
        else:
            rows.append([example])
    return rows


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
