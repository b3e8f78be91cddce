"""Split rows into training and evaluation rows, without a prompt on both sides.

A completion of a prompt that was trained on says little about unseen prompts. So rows are held out a whole prompt at a time,
and without prompts, identical rows stay together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from datasets import Dataset

from trl_ext.data.row_hashes import hashes


class Split(NamedTuple):
    """Row numbers in random order; `by_prompt` is True if no prompt is on both sides."""

    train: np.ndarray
    held_out: np.ndarray
    by_prompt: bool


def hold_out(dataset: Dataset, size: int, seed: int) -> Split:
    """Hold out at most `size` random rows; fewer if whole prompts do not add up to it.

    If all prompts are different, these are the rows that `Dataset.train_test_split` holds out with this seed. If there are so
    few prompts that less than half of `size` can be held out, identical rows are kept together instead.
    """
    order = np.random.default_rng(seed).permutation(len(dataset))
    if {"images", "image"} & set(dataset.column_names):  # prompts do not identify rows with images
        return Split(order[size:], order[:size], by_prompt=False)
    by_prompt = "prompt" in dataset.column_names
    taken = _taken(hashes(dataset, ["prompt"] if by_prompt else dataset.column_names)[order], size)
    if by_prompt and taken.sum() < size / 2:
        by_prompt = False
        taken = _taken(hashes(dataset, dataset.column_names)[order], size)
    return Split(order[~taken], order[taken], by_prompt)


def _taken(keys: np.ndarray, size: int) -> np.ndarray:
    """Whether each row is held out: those of the first keys whose rows all fit into `size`."""
    _, first, of_row, rows = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    in_order = np.argsort(first)
    is_held_out = np.zeros(len(rows), dtype=bool)
    room = size
    for number in in_order:
        if rows[number] <= room:
            is_held_out[number] = True
            room -= rows[number]
            if room == 0:
                break
    return is_held_out[of_row]
