"""What TRL's trainers (1.16) do to long examples: their collators cut sequences, their preparation drops examples."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trl_ext.methods import METHODS


class Limits(NamedTuple):
    """What a trainer does to long examples.

    Attributes:
        max_length: Most tokens of a sequence, or `None`.
        keep_end: Cut at the beginning instead of the end.
        is_cut: Whether what is longer is cut; dropped otherwise.
        drops_the_unscored: Whether an example is dropped of which nothing to learn from is left.
    """

    max_length: int | None
    keep_end: bool = False
    is_cut: bool = True
    drops_the_unscored: bool = True


def limits(kind: str, args: Any) -> Limits:
    """The limits a trainer of this kind applies (TRL 1.16), from its configuration."""
    method = METHODS[kind]
    if method.samples_completions:
        return Limits(None)
    keep_end = getattr(args, "truncation_mode", None) == "keep_end"  # of DPO and SFT
    if method.reads == "demonstrations" and args.packing:
        # Other strategies go on with the rest in another sequence.
        return Limits(args.max_length if args.packing_strategy == "bfd" else None, drops_the_unscored=False)
    return Limits(args.max_length, keep_end, is_cut=not method.drops_long_rows)


class Cut(NamedTuple):
    """What is left of prompts and answers: so many tokens of a prompt, and an answer from `start` to `stop`."""

    prompt: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def apply(limits: Limits, prompt: np.ndarray, answer: np.ndarray) -> Cut:
    """What the limits leave of prompts and answers of so many tokens."""
    nothing = np.zeros_like(answer)
    if limits.max_length is None or not limits.is_cut:
        return Cut(prompt, nothing, answer)
    if limits.keep_end:
        surplus = np.maximum(prompt + answer - limits.max_length, 0)
        return Cut(prompt - np.minimum(surplus, prompt), np.maximum(surplus - prompt, 0), answer)
    return Cut(np.minimum(prompt, limits.max_length), nothing, np.clip(limits.max_length - prompt, 0, answer))
