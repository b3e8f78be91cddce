"""Hash the rows of a dataset, to compare them without holding their text."""

from __future__ import annotations

import json

import numpy as np
import pyarrow
import xxhash
from datasets import Dataset

BATCH = 10_000


def hashes(dataset: Dataset, names: list[str]) -> np.ndarray:
    """A 64-bit hash of these columns for every row."""
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
