"""Cut and drop long examples as TRL's trainers (1.16) do: their collators cut, their data preparation drops."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trl_ext.methods import Method


class Limits(NamedTuple):
    """What a trainer does to long examples.

    Attributes:
        max_length: The largest number of tokens of a sequence, or `None`.
        keep_end: Cut the beginning instead of the end.
        is_cut: Longer sequences are cut; otherwise they are dropped.
        drops_the_unscored: Examples without any token to learn from after the cut are dropped.
    """

    max_length: int | None
    keep_end: bool = False
    is_cut: bool = True
    drops_the_unscored: bool = True


def limits(method: Method, args: Any) -> Limits:
    """The limits that the trainer of a method applies (TRL 1.16)."""
    if method.samples_completions:
        return Limits(None)
    keep_end = getattr(args, "truncation_mode", None) == "keep_end"  # of DPO and SFT
    if method.reads == "demonstrations" and args.packing:
        # Other strategies continue the remainder in another sequence.
        return Limits(args.max_length if args.packing_strategy == "bfd" else None, drops_the_unscored=False)
    return Limits(args.max_length, keep_end, is_cut=not method.drops_long_rows)


class Cut(NamedTuple):
    """The tokens that a cut keeps: the number of prompt tokens, and the completion from `start` to `stop`."""

    prompt: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def apply(limits: Limits, prompt: np.ndarray, completion: np.ndarray) -> Cut:
    """Apply the limits to prompts and completions, given their numbers of tokens."""
    nothing = np.zeros_like(completion)
    if limits.max_length is None or not limits.is_cut:
        return Cut(prompt, nothing, completion)
    if limits.keep_end:
        surplus = np.maximum(prompt + completion - limits.max_length, 0)
        return Cut(prompt - np.minimum(surplus, prompt), np.maximum(surplus - prompt, 0), completion)
    return Cut(np.minimum(prompt, limits.max_length), nothing, np.clip(limits.max_length - prompt, 0, completion))
