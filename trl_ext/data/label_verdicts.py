"""Give a format the meaning of every label in a dataset."""

from __future__ import annotations

import dataclasses

from datasets import ClassLabel, Dataset, IterableDataset, Value

from trl_ext.data.formats import Match, Sample
from trl_ext.data.formats.labels import DESIRABLE, UNDESIRABLE, verdicts, word
from trl_ext.support.errors import UserError

SCALARS = (str, bool, int, float)


def with_verdicts(match: Match, dataset: Dataset | IterableDataset, found: Sample, source: str) -> Match:
    """`match` with the meaning of every label in the dataset; for a stream, of the labels in the sampled rows."""
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
        raise UserError(
            f"{source}: column `{match.label}` holds lists or objects. A label is text, a number or a boolean."
        )
    return dataclasses.replace(match, verdicts=verdicts(scalars, match.label, source))


def _distinct(dataset: Dataset, column: str) -> list:
    """The distinct values of a column, with at most one list or object: these are not labels."""
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
