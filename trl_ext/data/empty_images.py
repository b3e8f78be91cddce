"""Leave out columns of images that hold none, so that the rows are read as text."""

from __future__ import annotations

from typing import Any

import pyarrow
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset, List, Value

NAMES = ("images", "image")
BATCH = 1000


def without_empty_images(dataset: Dataset | IterableDataset) -> tuple[Any, tuple[str, ...]]:
    """The dataset without columns of images that are empty or null in every row, and their names.

    Images are not decoded. Of a stream, only the declared type is looked at.
    """
    names = [name for name in NAMES if name in (dataset.column_names or ())]
    empty = tuple(name for name in names if _is_empty(dataset, name))
    return (dataset.remove_columns(list(empty)) if empty else dataset), empty


def _is_empty(dataset: Dataset | IterableDataset, name: str) -> bool:
    feature = dataset.features[name]
    if feature in (Value("null"), List(Value("null"))):
        return True
    if isinstance(dataset, IterableDataset):
        return False
    rows = dataset.select_columns([name]).with_format("arrow").iter(BATCH)
    return not any(_has_values(table[name].combine_chunks()) for table in rows)


def _has_values(column: pyarrow.Array) -> bool:
    if isinstance(column, pyarrow.ExtensionArray):
        column = column.storage
    if pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
        return bool(pc.sum(pc.list_value_length(column)).as_py())
    if pyarrow.types.is_string(column.type):
        return any(column.drop_null().to_pylist())
    return column.null_count < len(column)
