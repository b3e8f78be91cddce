"""A look at a dataset before it is read as a whole: some of its rows, and every spelling of its labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from datasets import ClassLabel, Dataset, IterableDataset, Value

from trl_ext.data.formats import READ, Match, Sample
from trl_ext.data.formats.labels import DESIRABLE, UNDESIRABLE, verdicts, word
from trl_ext.support.errors import UserError

SAMPLE_ROWS = 64
SCALARS = (str, bool, int, float)


def without_format(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The dataset with plain Python values and, for a stream, with its columns known."""
    dataset = dataset.with_format(None)
    if isinstance(dataset, IterableDataset) and dataset.features is None:
        dataset = dataset._resolve_features()
    return dataset


def sample(dataset: Dataset | IterableDataset, size: int = SAMPLE_ROWS, known: Sequence[str] | None = READ) -> Sample:
    """`size` rows spread over the dataset (of a stream: the first), of the `known` columns or of all but its images."""
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


def with_verdicts(match: Match, dataset: Dataset | IterableDataset, found: Sample, source: str) -> Match:
    """`match` with the meaning of every label in the dataset (in a stream: of the sampled rows')."""
    if match.label is None:
        return match
    feature = dataset.features[match.label]
    if isinstance(feature, ClassLabel):
        names = {word(name): i for i, name in enumerate(feature.names)}
        if set(names) <= DESIRABLE | UNDESIRABLE:
            return dataclasses.replace(match, verdicts={i: name in DESIRABLE for name, i in names.items()})
    values = [row.get(match.label) for row in found.rows]
    if isinstance(dataset, Dataset):
        values = _distinct(dataset, match.label)
    scalars = [value for value in values if isinstance(value, SCALARS)]
    if not scalars and any(value is not None for value in values):
        raise UserError(f"{source}: column `{match.label}` holds lists or objects, not a label.")
    return dataclasses.replace(match, verdicts=verdicts(scalars, match.label, source))


def _distinct(dataset: Dataset, column: str) -> list:
    """The column's different values; of lists and objects, which are no labels, one."""
    if isinstance(dataset.features[column], (Value, ClassLabel)):
        return dataset.unique(column)
    scalars, others = set(), []
    for batch in dataset.select_columns([column]).iter(1000):
        for value in batch[column]:
            if isinstance(value, SCALARS):
                scalars.add(value)
            elif value is not None:
                others = [value]
    return [*scalars, *others]
