"""Mix several datasets as TRL's `get_dataset` does, which reads less: files of every kind here, and a `share` of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, concatenate_datasets

from trl_ext import demo
from trl_ext.data import content_cache
from trl_ext.data.column_errors import near
from trl_ext.data.hub import loading_error
from trl_ext.data.sources import open_source
from trl_ext.data.split_loading import AnyDataset, load_split
from trl_ext.demo import EMBEDDED
from trl_ext.support.errors import UserError

NAME = "The mixture `datasets`"


def open_mixture(
    entries: Sequence[Mapping[str, Any]], *, streaming: bool = False, test_size: float | None = None, seed: int = 42
) -> DatasetDict | IterableDatasetDict:
    """The rows of all entries, one entry after the other.

    Args:
        entries: The fields of TRL's `DatasetConfig`, and `share`: the share of the dataset's rows that are used, from the first
            (`int(share × rows)`, at most 1). `fraction` is the share of the mixture that the dataset makes up.
        streaming: Read the rows during training.
        test_size: Rows to hold out as the split `test`: a share below 1, or a number.
        seed: Of the choice of these rows. TRL's are others each time the data is read.

    Returns:
        The split `train`, and `test` if `test_size` is given.

    Raises:
        UserError: A dataset is not found or not readable, has no such split or column, or the datasets do not fit together.
    """
    parts = [_part(entry, streaming) for entry in entries]
    fractions = [float(entry["fraction"]) for entry in entries if entry.get("fraction") is not None]
    if len(fractions) == len(entries) and sum(fractions) > 0:
        parts = _in_proportion(parts, fractions)
    try:
        rows = concatenate_datasets(parts)
        if test_size is not None:
            return rows.train_test_split(test_size if test_size < 1 else int(test_size), seed=seed)
    except Exception as error:  # columns that differ, and sizes that do not fit, raise many kinds of errors
        raise loading_error(error, NAME, None) from error
    return DatasetDict(train=rows) if isinstance(rows, Dataset) else IterableDatasetDict(train=rows)


def _part(entry: Mapping[str, Any], streaming: bool) -> AnyDataset:
    """The rows of one entry."""
    dataset, name = _opened(entry, streaming)
    if (columns := entry.get("columns")) is not None:
        columns = [columns] if isinstance(columns, str) else columns
        there = dataset.column_names or columns
        for column in columns:
            if column not in there:
                raise UserError(f"{name} has no column `{column}`{near(column, there)}. It has {', '.join(there)}.")
        dataset = dataset.select_columns(columns)
    if (share := entry.get("share")) is not None:
        if isinstance(dataset, IterableDataset):
            raise UserError(f"{name} is a stream, whose number of rows is unknown. Remove `share`, or `streaming`.")
        dataset = dataset.select(range(int(float(share) * len(dataset))))
    return dataset


def _opened(entry: Mapping[str, Any], streaming: bool) -> tuple[AnyDataset, str]:
    path, config, split = entry["path"], entry.get("name"), entry.get("split") or "train"
    of_files = {key: entry[key] for key in ("data_dir", "data_files") if entry.get(key)}
    if not of_files:
        place = str(demo.DATA) if path == EMBEDDED else path
        return open_source(place, split=split, config=config, revision=None, streaming=streaming)
    local = content_cache.files_of(of_files.get("data_dir") or path, of_files.get("data_files"))
    name = ", ".join(file.name for file in local) or path
    return load_split(path, name, split, files=local, name=config, streaming=streaming, **of_files), name


def _in_proportion(parts: list[AnyDataset], fractions: Sequence[float]) -> list[AnyDataset]:
    """The first rows of each part, as many as make the mixture as large as it can be without using a row twice."""
    if any(isinstance(part, IterableDataset) for part in parts):
        raise UserError("`fraction` needs the number of rows, which is unknown for a stream. Remove `streaming`.")
    weights = [fraction / sum(fractions) for fraction in fractions]
    total = min(len(part) / weight for part, weight in zip(parts, weights, strict=True) if weight > 0)
    return [part.select(range(round(weight * total))) for part, weight in zip(parts, weights, strict=True)]
