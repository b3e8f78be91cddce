"""Open a dataset wherever it is: in memory, a file, a directory, the Hub. Code in datasets is never run."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    ReadInstruction,
    Value,
    get_dataset_split_names,
    load_dataset,
    load_from_disk,
)
from pandas.errors import ParserWarning

from trl_ext.data.files import names
from trl_ext.data.files.compression import open_text, truncated_zstd, wrong_name
from trl_ext.data.files.problems import explain, find_problem
from trl_ext.data.files.tables import other_separator, usual_separator
from trl_ext.data.files.wrapped_json import key_of_rows
from trl_ext.data.formats import READ
from trl_ext.data.hints import near
from trl_ext.data.hub import require_hub_dataset, said_by_the_hub, unusable_cache
from trl_ext.support.errors import UserError

IN_MEMORY = "the dataset given"

AnyDataset = Dataset | IterableDataset


def open_source(
    name_or_path: Any, *, split: str, config: str | None, revision: str | None, streaming: bool
) -> tuple[AnyDataset, str]:
    """One split, as it is stored, and what to call it in sentences.

    Raises:
        UserError: nothing there, not readable, no such split.
    """
    if isinstance(name_or_path, (DatasetDict, IterableDatasetDict)):
        return _pick(name_or_path, split, IN_MEMORY), IN_MEMORY
    if isinstance(name_or_path, (Dataset, IterableDataset)):
        return name_or_path, IN_MEMORY
    name = os.fspath(name_or_path).strip()
    if not name:
        raise UserError("The name of the dataset is empty; give a name on the Hub, a file or a directory.")
    path = Path(name).expanduser()
    if path.is_file():
        return _from_file(path, split, streaming), path.name
    if path.is_dir():
        return _from_directory(path, split, config, streaming), path.name
    _refuse_missing_path(name, path)
    require_hub_dataset(name, revision)
    return _load(name, name, split, name=config, revision=revision, streaming=streaming), name


def splits(name_or_path: Any, *, config: str | None = None, revision: str | None = None) -> tuple[str, ...]:
    """Names of the splits there are, without loading any.

    Raises:
        UserError: nothing there.
    """
    if isinstance(name_or_path, (DatasetDict, IterableDatasetDict)):
        return tuple(name_or_path)
    if isinstance(name_or_path, (Dataset, IterableDataset)):
        return ("train",)
    name = os.fspath(name_or_path).strip()
    path = Path(name).expanduser()
    if path.is_file() or (path / "state.json").is_file():
        return ("train",)
    if (path / "dataset_dict.json").is_file():
        return tuple(load_from_disk(str(path)))
    if not path.is_dir():
        _refuse_missing_path(name, path)
        require_hub_dataset(name, revision)
    try:
        return tuple(get_dataset_split_names(str(path) if path.is_dir() else name, config, revision=revision))
    except Exception as error:
        raise said_by_the_hub(error, name, config) from error


def _from_file(path: Path, split: str, streaming: bool) -> AnyDataset:
    builder = names.builder(path)
    if builder is None:
        raise UserError(f"{path.name} is not a kind of file that holds preference data. Allowed are {names.ALLOWED}.")
    if _split_name(split) != "train":
        raise UserError(
            f"{path.name} is one file, which has the split `train` only, and `{split}` was asked for. Name another "
            "split, or hold out rows with `eval_size: 200`."
        )
    _require_whole(path, path.name)
    options: dict[str, Any] = {"data_files": {"train": str(path)}, "streaming": streaming}
    if builder == "csv":
        options |= _csv_options(path)
    elif (key := key_of_rows(path)) is not None:
        options["field"] = key
    return _load(builder, path.name, split, files=(path,), **options)


def _require_whole(path: Path, name: str) -> None:
    """Refuse a file that libraries would read as another kind, or only in part."""
    if path.stat().st_size == 0:
        raise UserError(f"{name} is empty (0 bytes).")
    if (problem := wrong_name(path) or truncated_zstd(path)) is not None:
        raise UserError(f"{name} cannot be read: {problem}")


def _csv_options(path: Path) -> dict[str, Any]:
    """Every cell is text, and only an empty one is missing: an answer may well be "42", "NA" or "None"."""
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


def _from_directory(path: Path, split: str, config: str | None, streaming: bool) -> AnyDataset:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        try:
            stored = load_from_disk(str(path))
        except Exception as error:
            raise UserError(
                f"{path.name} was written by save_to_disk but cannot be read: {_first_line(error)}."
            ) from error
        return _pick(stored if isinstance(stored, DatasetDict) else DatasetDict(train=stored), split, path.name)
    files = sorted(file for file in path.rglob("*") if names.builder(file) is not None and file.is_file())
    if not files:
        raise UserError(f"{path.name} is a directory without a file that can be read. Allowed are {names.ALLOWED}.")
    for file in files:
        if names.compression(file):
            _require_whole(file, str(file.relative_to(path.parent)))
    return _load(str(path), path.name, split, files=files, name=config, streaming=streaming)


def _load(loader: str, source: str, split: str, *, files: Sequence[Path] = (), **options: Any) -> AnyDataset:
    """A dataset by `load_dataset`; `files` are those to look into if that fails."""
    try:
        with warnings.catch_warnings():
            # pandas only warns of a row longer than the header, and shifts or cuts the cells.
            warnings.simplefilter("error", ParserWarning)
            dataset = load_dataset(loader, split=split, **options)
        if isinstance(dataset, Dataset):  # text that is not UTF-8 would fail much later, wherever it is first read
            for name in set(dataset.column_names) & set(READ):
                dataset.data.column(name).validate(full=True)
        return dataset
    except Exception as error:
        if (problem := unusable_cache(error)) is not None:
            raise UserError(problem) from error
        if len(files) == 1 and files[0].name == source:
            raise UserError(f"{source} cannot be read: {explain(files[0], error)}") from error
        for file in files:
            if (problem := find_problem(file)) is not None:
                raise UserError(f"{file} cannot be read: {problem}") from error
        raise said_by_the_hub(error, source, options.get("name")) from error


def _pick(splits: DatasetDict | IterableDatasetDict, split: str, source: str) -> AnyDataset:
    name = _split_name(split)
    if name not in splits:
        raise UserError(f"{source} has no split `{name}`{near(name, splits)}; it has {', '.join(splits)}.")
    dataset = splits[name]
    if name == split:
        return dataset
    if isinstance(dataset, IterableDataset):
        raise UserError(f"{source}: a stream cannot be sliced (`{split}`); use max_train_samples.")
    try:
        part = ReadInstruction.from_spec(split).to_absolute({name: len(dataset)})
    except (ValueError, AssertionError) as error:
        raise UserError(f"{source}: `{split}` is not a slice that can be read: {_first_line(error)}.") from error
    return dataset.select(range(part[0].from_ or 0, len(dataset) if part[0].to is None else part[0].to))


def _split_name(split: str) -> str:
    """ "train" of "train[:10%]"."""
    return re.split(r"[\[+]", split, maxsplit=1)[0].strip()


def _refuse_missing_path(name: str, path: Path) -> None:
    """Raise if `name` can only have meant a file; a Hub name is "name" or "owner/name"."""
    is_hub_name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not names.is_data_file(path)
    if is_hub_name and not name.startswith("."):
        return
    folder = path.parent if path.parent.is_dir() else None
    beside = sorted(entry.name for entry in folder.iterdir()) if folder else []
    if folder is None:
        hint = f"; there is no directory {path.parent} either"
    else:
        hint = near(path.name, beside) or (f"; {folder} holds {', '.join(beside[:8])}" if beside else "")
    raise UserError(f"There is no file or directory {name}{hint}.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
