"""Rows to train on and rows to evaluate on, kept apart: by their prompts.

An answer to a prompt that was trained on, with whatever other answers, says little about prompts that were not. So rows
are held out a whole prompt at a time, and where there are no prompts, rows that are the same stay together.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pyarrow
import xxhash
from datasets import Dataset

BATCH = 10_000


class Split(NamedTuple):
    """Row numbers, in random order; `by_prompt` if no prompt is on both sides."""

    train: np.ndarray
    held_out: np.ndarray
    by_prompt: bool


def hold_out(dataset: Dataset, size: int, seed: int) -> Split:
    """About `size` random rows, and the others: no more of them, and fewer only where whole prompts do not add up to it.

    Where no two rows have the same prompt, these are the rows that `Dataset.train_test_split` takes with this seed.
    If the prompts are so few that not half of `size` can be held out, the same rows are kept together instead.
    """
    order = np.random.default_rng(seed).permutation(len(dataset))
    if {"images", "image"} & set(dataset.column_names):  # what is asked about them tells no rows apart
        return Split(order[size:], order[:size], by_prompt=False)
    by_prompt = "prompt" in dataset.column_names
    taken = _taken(hashes(dataset, ["prompt"] if by_prompt else dataset.column_names)[order], size)
    if by_prompt and taken.sum() < size / 2:
        by_prompt = False
        taken = _taken(hashes(dataset, dataset.column_names)[order], size)
    return Split(order[~taken], order[taken], by_prompt)


def _taken(keys: np.ndarray, size: int) -> np.ndarray:
    """Whether each row is held out: keys that come first, as long as all their rows have room in `size`."""
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


class Overlap(NamedTuple):
    """Of rows to evaluate on: how many are trained on too, word for word, and how many others ask a prompt that is."""

    rows: int
    prompts: int


def overlap(train: Dataset, evaluation: Dataset) -> Overlap:
    """What two datasets have in common: of pairs and single answers the prompts, of data with images nothing."""
    shared = [name for name in train.column_names if name in evaluation.column_names]
    if not shared or {"images", "image"} & {*train.column_names, *evaluation.column_names}:
        return Overlap(0, 0)
    is_asked = np.zeros(len(evaluation), dtype=bool)
    if "prompt" in shared:
        trained, asked = hashes(train, ["prompt"]), hashes(evaluation, ["prompt"])
        is_asked, train = np.isin(asked, trained), train.select(np.flatnonzero(np.isin(trained, asked)))
    is_same = np.isin(hashes(evaluation, shared), hashes(train, shared)) & (answers(train) == answers(evaluation))
    return Overlap(int(is_same.sum()), int((is_asked & ~is_same).sum()))


def answers(dataset: Dataset) -> set[str]:
    """Names of the columns with answers."""
    return {"chosen", "rejected", "completion"} & set(dataset.column_names)


def hashes(dataset: Dataset, names: list[str]) -> np.ndarray:
    """64 bits of these columns' content in each row."""
    found = np.empty(len(dataset), dtype=np.uint64)
    start = 0
    for table in dataset.select_columns(names).with_format("arrow").iter(BATCH):
        columns = [_texts(table[name]) for name in names]
        texts = ("\0".join(row) for row in zip(*columns, strict=True))
        digests = [xxhash.xxh64_intdigest(text.encode("utf-8", "surrogatepass")) for text in texts]
        found[start : start + len(digests)] = digests
        start += len(digests)
    return found


def _texts(column: pyarrow.ChunkedArray) -> list[str]:
    values = column.to_pylist()
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        return ["\1" if value is None else value for value in values]
    return [json.dumps(value, ensure_ascii=False, sort_keys=True, default=str) for value in values]
