"""Sample rows of a dataset to recognise its format."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset, IterableDataset

from trl_ext.data.formats import READ, Sample

SAMPLE_ROWS = 64


def without_format(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The dataset with plain Python values; for a stream, also with its columns resolved."""
    dataset = dataset.with_format(None)
    if isinstance(dataset, IterableDataset) and dataset.features is None:
        dataset = dataset._resolve_features()
    return dataset


def sample(dataset: Dataset | IterableDataset, size: int = SAMPLE_ROWS, known: Sequence[str] | None = READ) -> Sample:
    """`size` rows spread over the dataset, or the first of a stream.

    The rows have the `known` columns; with `None`, all columns except images.
    """
    names = tuple(dataset.column_names)
    read = [name for name in names if (name not in ("images", "image") if known is None else name in known)]
    if not read:
        return Sample(names, [])
    narrow = dataset.select_columns(read)
    if isinstance(dataset, IterableDataset):
        return Sample(names, list(narrow.take(size)))
    last = len(dataset) - 1
    chosen = sorted({i * last // max(size - 1, 1) for i in range(size)}) if last >= 0 else []
    return Sample(names, [narrow[i] for i in chosen])
