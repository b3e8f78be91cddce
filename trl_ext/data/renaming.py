"""Give a dataset the column names known here: those of `dataset_columns`, and other spellings of known names."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from datasets import Dataset, Features, IterableDataset, Json, LargeList, List, Value, concatenate_datasets

from trl_ext.data import column_paths
from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.column_errors import check_mapping
from trl_ext.data.column_names import known_names
from trl_ext.data.column_paths import Path

AnyDataset = Dataset | IterableDataset
SAMPLE_ROWS = 64
"""Rows that tell the type of nested values that the column does not declare."""


def renamed(dataset: AnyDataset, mapping: Mapping[str, str] | None, source: str) -> AnyDataset:
    """`mapped`, and then with known names for columns that differ from one in capitals, spaces and hyphens only.

    Raises:
        UserError: The mapping does not fit the dataset.
    """
    return with_known_names(mapped(dataset, mapping, source))


def mapped(dataset: AnyDataset, mapping: Mapping[str, str] | None, source: str) -> AnyDataset:
    """The dataset with the names of `dataset_columns`. A column that already has such a name is removed.

    Args:
        dataset: The dataset as it is stored.
        mapping: {name known here: column of the dataset, or path to values inside one}.
        source: What to call the data.

    Raises:
        UserError: The mapping does not fit the dataset.
    """
    if not mapping:
        return dataset
    paths = _paths(mapping, dataset.column_names)
    check_mapping(dict(mapping), tuple(dataset.column_names), source, _first_rows(dataset, paths))
    names = {column: place for place, column in mapping.items() if place not in paths}
    return _with_names(lifted(dataset, paths), names)


def with_known_names(dataset: AnyDataset) -> AnyDataset:
    return _with_names(dataset, known_names(dataset.column_names))


def lifted(dataset: AnyDataset, paths: Mapping[str, Path]) -> AnyDataset:
    """The dataset with a column for each path, instead of any column that has its name."""
    if not paths:
        return dataset
    roots = list(dict.fromkeys(path.root for path in paths.values()))
    narrow = dataset.select_columns(roots)
    sampled = _first_rows(dataset, paths)
    features = {place: _feature(narrow.features, path, sampled) for place, path in paths.items()}
    replaced = [place for place in paths if place in dataset.column_names]
    if isinstance(dataset, IterableDataset):
        kept = {name: feature for name, feature in dataset.features.items() if name not in replaced}
        return dataset.map(
            _follow, batched=True, fn_kwargs={"paths": dict(paths)}, features=Features({**kept, **features})
        )
    new = narrow.map(
        _follow,
        batched=True,
        fn_kwargs={"paths": dict(paths)},
        remove_columns=[name for name in roots if name not in paths],
        features=Features(features),
        new_fingerprint=fingerprint(narrow, "lift", sorted(paths.items())),
        desc="Reading nested columns",
    )
    return concatenate_datasets([dataset.remove_columns(replaced), new], axis=1)


def _with_names(dataset: AnyDataset, renames: Mapping[str, str]) -> AnyDataset:
    renames = {column: known for column, known in renames.items() if column != known}
    replaced = [name for name in renames.values() if name in dataset.column_names and name not in renames]
    return dataset.remove_columns(replaced).rename_columns(renames)


def _paths(mapping: Mapping[str, str], columns: list[str]) -> dict[str, Path]:
    found = {place: column_paths.parse(text, columns) for place, text in mapping.items() if isinstance(text, str)}
    return {place: path for place, path in found.items() if path is not None and path.root in columns}


def _first_rows(dataset: AnyDataset, paths: Mapping[str, Path]) -> list[dict[str, Any]]:
    if not paths:
        return []
    narrow = dataset.select_columns(list(dict.fromkeys(path.root for path in paths.values())))
    return list(islice(narrow, SAMPLE_ROWS))  # `take` needs as many rows before datasets 5.2


def _follow(batch: dict[str, list], paths: dict[str, Path]) -> dict[str, list]:
    return {
        place: [column_paths.follow(value, path.steps) for value in batch[path.root]] for place, path in paths.items()
    }


def _feature(features: Features, path: Path, rows: list[dict[str, Any]]) -> Any:
    """The type of the values at the end of a path: as declared, or as in the first rows."""
    declared = _declared(features[path.root], path.steps)
    return declared or _seen([column_paths.follow(row[path.root], path.steps) for row in rows])


def _declared(feature: Any, steps: tuple[str | int, ...]) -> Any:
    if not steps:
        return feature
    is_list = isinstance(feature, (List, LargeList))
    if isinstance(steps[0], int):
        return _declared(feature.feature, steps[1:]) if is_list else None
    if is_list:
        inside = _declared(feature.feature, steps)
        return None if inside is None else List(inside)
    return _declared(feature[steps[0]], steps[1:]) if isinstance(feature, dict) and steps[0] in feature else None


def _seen(values: list[Any]) -> Any:
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, bool) for value in there):
        return Value("bool")
    if there and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there):
        return Value("float64")
    if there and all(isinstance(value, dict) for value in there):
        return Json()
    if there and all(isinstance(value, list) for value in there):
        return List(_seen([item for value in there for item in value]))
    return Value("string")
