"""Count the tokens that the forward passes of a run compute, with TRL's padding and with this package's rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from trl_ext.batching.budget import LARGEST_ROW
from trl_ext.batching.packed import Tree, joined_tokens, pack_rows
from trl_ext.batching.padded import cut_rows
from trl_ext.inspection.facts import Facts

EXAMPLES = 4096
"""Examples to lay out, in whole optimizer steps."""


class Layout(NamedTuple):
    """Tokens computed for the same examples.

    Attributes:
        examples: Number of examples.
        steps: Number of optimizer steps.
        tokens: Tokens without padding; a prompt counts once per completion.
        trl: Tokens that TRL computes, which pads every micro-batch to its longest sequence.
        here: Tokens that this package computes.
        is_packed: True if rows are packed and share prompts, as far as the configuration tells; False for padded rows.
    """

    examples: int
    steps: int
    tokens: int
    trl: int
    here: int
    is_packed: bool


def compare(facts: Facts, tokenised: Dataset, args: Any) -> Layout | None:
    """Lay out the first optimizer steps of one process, in random order; `None` if the trainer uses TRL's own batches."""
    names = facts.method.completions
    kept = np.flatnonzero(~facts.is_dropped)
    if not facts.method.cuts_rows or not len(kept):
        return None
    each = args.per_device_train_batch_size
    step = each * args.gradient_accumulation_steps
    order = np.random.default_rng(args.seed).permutation(kept)[: max(EXAMPLES // step, 1) * step]
    lengths = {name: facts.cut[name].astype(np.int64) for name in names}
    longest = np.max([lengths[name] for name in names], axis=0)
    trl = sum(len(names) * len(part) * longest[part].max() for part in _parts(order, each))
    is_packed = args.packing and not facts.limits.keep_end
    row_tokens = LARGEST_ROW if args.row_tokens == "auto" else args.row_tokens
    here, columns = 0, tokenised.select_columns(["prompt_ids", *(f"{name}_ids" for name in names)])
    for part in _parts(order, step):
        if is_packed:
            trees = [_tree(row, names, facts) for row in columns.select(part)]
            rows = pack_rows([{"tree": tree} for tree in trees], lambda example: example["tree"], row_tokens)
            here += sum(joined_tokens([example["tree"] for example in row]) for row in rows)
        else:
            rows = cut_rows(
                [{"length": int(n)} for n in longest[part]],
                lambda example: example["length"],
                sequences=len(names),
                row_tokens=row_tokens,
            )
            here += sum(len(names) * len(row) * max(example["length"] for example in row) for row in rows)
    tokens = sum(int(lengths[name][order].sum()) for name in names)
    return Layout(len(order), -(-len(order) // step), tokens, int(trl), int(here), bool(is_packed))


def _parts(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _tree(row: dict, names: tuple[str, ...], facts: Facts) -> Tree:
    limit = facts.limits.max_length
    prompt = row["prompt_ids"]
    room = None if limit is None else limit - len(prompt)
    return Tree(prompt, [row[f"{name}_ids"][:room] for name in names])
