"""Batches of token ids as TRL's collators make them, padded or padding-free: count their tokens and cut them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def tokens(batch: Mapping[str, Any]) -> int:
    """Tokens that a batch computes, padding included."""
    return batch["input_ids"].numel()


def first_half(batch: Mapping[str, Any], sequences: int) -> dict[str, Any]:
    """The first half of a batch's examples; of a single example, the first half of its tokens.

    Args:
        batch: Token ids (B, T), and tensors with as many rows, with one row per example, or with as many columns. In a pair's
            batch, all chosen completions precede all rejected ones.
        sequences: Rows of an example: 2 for pairs.
    """
    rows, width = batch["input_ids"].shape
    examples = rows // sequences
    if examples > 1:
        return {name: _first_rows(value, examples, examples // 2) for name, value in batch.items()}
    return {name: _first_columns(name, value, width, max(width // 2, 1)) for name, value in batch.items()}


def _first_rows(value: Any, examples: int, count: int) -> Any:
    if not isinstance(value, Tensor) or not value.ndim or value.size(0) % examples:
        return value
    return value.unflatten(0, (-1, examples))[:, :count].flatten(0, 1)


def _first_columns(name: str, value: Any, width: int, count: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    if name.startswith(
        "cu_seq_lens"
    ):  # where the sequences of a padding-free batch begin, and where the last one ends
        return torch.cat([value[value < count], value.new_tensor([count])])
    return value[:, :count] if value.ndim > 1 and value.size(1) == width else value
