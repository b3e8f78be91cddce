"""Open a local file, or a folder of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDatasetDict,
    Value,
    concatenate_datasets,
    load_dataset_builder,
    load_from_disk,
)

from trl_ext.data import content_cache
from trl_ext.data.files import names
from trl_ext.data.files.compression import open_text, truncated_zstd, wrong_name
from trl_ext.data.files.problems import explain, no_rows
from trl_ext.data.files.tables import other_separator, usual_separator
from trl_ext.data.files.wrapped_json import key_of_rows
from trl_ext.data.json_features import features_of
from trl_ext.data.split_loading import AnyDataset, first_line, load_split, pick_split, split_name
from trl_ext.support.errors import UserError


def open_file(path: Path, split: str, streaming: bool) -> AnyDataset:
    """The rows of one file.

    Raises:
        UserError: The file cannot be read, or another split than `train` was asked for.
    """
    builder = names.builder(path)
    if builder is None:
        raise UserError(f"{path.name} is not a kind of file that holds preference data. Allowed are {names.ALLOWED}.")
    if split_name(split) != "train":
        raise UserError(
            f"{path.name} is one file, which has the split `train` only, and `{split}` was asked for. Choose another "
            "split, or hold out rows with `eval_size: 200`."
        )
    _require_whole(path, path.name)
    options: dict[str, Any] = {"data_files": {"train": str(path)}, "streaming": streaming}
    if builder == "csv":
        options |= _csv_options(path)
    elif builder == "json":
        field = key_of_rows(path)
        found = {"field": field, "features": features_of([path], field, streaming)}
        options |= {name: value for name, value in found.items() if value is not None}
    return load_split(builder, path.name, split, files=(path,), **options)


def open_folder(path: Path, split: str, config: str | None, streaming: bool) -> AnyDataset:
    """The rows of one split of a folder of files, or of one written by `save_to_disk`.

    Raises:
        UserError: There is no such split, or a file cannot be read.
    """
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        try:
            stored = load_from_disk(str(path))
        except Exception as error:
            raise UserError(
                f"{path.name} was written by save_to_disk but cannot be read: {first_line(error)}."
            ) from error
        content = content_cache.digest(content_cache.files_of(str(path)))
        splits = stored if isinstance(stored, DatasetDict) else DatasetDict(train=stored)
        return content_cache.keyed(pick_split(splits, split, path.name), content)
    files = sorted(file for file in path.rglob("*") if names.builder(file) is not None and file.is_file())
    if not files:
        raise UserError(f"{path.name} is a directory without a file that can be read. Allowed are {names.ALLOWED}.")
    for file in files:
        if names.compression(file) or file.stat().st_size == 0:
            _require_whole(file, str(file.relative_to(path.parent)))
    of_split = _files_of_split(path, split, config)
    builders = {names.builder(file) for file in of_split}
    if not (path / "README.md").exists():
        _refuse_other_kinds(path, files, builders)
    if builders == {"csv"}:
        tables = [open_file(file, "train", streaming) for file in of_split]
        name = split_name(split)
        return pick_split(_joined(tables, name), split, path.name)
    features = features_of(of_split, streaming=streaming) if builders == {"json"} else None
    if builders in ({"json"}, {"parquet"}) and (features is not None or not (path / "README.md").exists()):
        # Files of other splits, which may have other columns, are not read.
        options: dict[str, Any] = {"data_files": {split_name(split): list(map(str, of_split))}}
        options |= {} if features is None else {"features": features}
        return load_split(builders.pop(), path.name, split, files=of_split, streaming=streaming, **options)
    return load_split(str(path), path.name, split, files=files, name=config, streaming=streaming)


def _files_of_split(path: Path, split: str, config: str | None) -> list[Path]:
    """The files that `datasets` reads for one split of a folder; none if it cannot tell, or if it reads parts of several."""
    try:
        found = load_dataset_builder(str(path), name=config).config.data_files or {}
    except Exception:  # reported when the data is loaded
        return []
    return sorted(Path(str(file)) for file in found.get(split_name(split), [])) if "+" not in split else []


def _refuse_other_kinds(path: Path, files: list[Path], builders: set[str | None]) -> None:
    """Refuse a folder of which `datasets` would leave out files. JSON documents may describe a dataset instead."""
    read = [file for file in files if names.builder(file) in builders]
    others = [file for file in files if names.builder(file) not in builders and names.kind(file) != ".json"]
    if read and others:
        raise UserError(
            f"{path.name} holds files of several kinds, and only one kind is read: {read[0].name} would be read and "
            f"{others[0].name} would not. Give one of the files, or move the others to another folder."
        )


def _joined(tables: list[AnyDataset], name: str) -> DatasetDict | IterableDatasetDict:
    """Tables one after the other, all their columns as text; a column that a table lacks is null there."""
    together = concatenate_datasets(tables)
    return DatasetDict({name: together}) if isinstance(together, Dataset) else IterableDatasetDict({name: together})


def _require_whole(path: Path, name: str) -> None:
    """Refuse a file that libraries would read as another kind, or only in part."""
    if path.stat().st_size == 0:
        raise UserError(f"{name} is empty (0 bytes).")
    if (problem := wrong_name(path) or truncated_zstd(path) or no_rows(path)) is not None:
        raise UserError(f"{name} cannot be read: {problem}")


def _csv_options(path: Path) -> dict[str, Any]:
    """Every cell is text, and only an empty one is missing: a completion may well be "42", "NA" or "None"."""
    separator = usual_separator(names.kind(path))
    try:
        columns = _header(path, separator)
        if (other := other_separator(columns)) is not None:
            separator, columns = other, _header(path, other)
    except Exception as error:  # pandas', and those of damaged compressed files
        raise UserError(f"{path.name} cannot be read: {explain(path, error)}") from error
    features = Features({column: Value("string") for column in columns})
    missing = {"keep_default_na": False, "na_values": [""]}
    return {"sep": separator, "features": features, "index_col": False, **missing}


def _header(path: Path, separator: str) -> list[str]:
    """Names of a table's columns, as pandas reads them: it numbers repeated ones."""
    with open_text(path, newline="") as file:
        return [str(column) for column in pandas.read_csv(file, sep=separator, nrows=0).columns]
