"""Open a dataset in memory, in a file or folder, or on the Hub. Code that comes with a dataset is never run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    get_dataset_split_names,
    load_from_disk,
)

from trl_ext.data.column_errors import near
from trl_ext.data.files import names
from trl_ext.data.hub import loading_error, require_hub_dataset
from trl_ext.data.local import open_file, open_folder
from trl_ext.data.split_loading import AnyDataset, load_split, pick_split
from trl_ext.support.errors import UserError

IN_MEMORY = "the given dataset"


def open_source(
    name_or_path: Any, *, split: str, config: str | None, revision: str | None, streaming: bool
) -> tuple[AnyDataset, str]:
    """One split, as it is stored, and what to call it in sentences.

    Raises:
        UserError: The data is not found or not readable, or has no such split.
    """
    if isinstance(name_or_path, (DatasetDict, IterableDatasetDict)):
        return pick_split(name_or_path, split, IN_MEMORY), IN_MEMORY
    if isinstance(name_or_path, (Dataset, IterableDataset)):
        return name_or_path, IN_MEMORY
    name = os.fspath(name_or_path).strip()
    if not name:
        raise UserError("The name of the dataset is empty. Give a name on the Hub, a file or a directory.")
    path = Path(name).expanduser()
    if path.is_file():
        return open_file(path, split, streaming), path.name
    if path.is_dir():
        return open_folder(path, split, config, streaming), path.name
    _refuse_missing_path(name, path)
    require_hub_dataset(name, revision)
    return load_split(name, name, split, name=config, revision=revision, streaming=streaming), name


def splits(name_or_path: Any, *, config: str | None = None, revision: str | None = None) -> tuple[str, ...]:
    """Names of the splits, without loading any.

    Raises:
        UserError: The data is not found.
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
        raise loading_error(error, name, config) from error


def _refuse_missing_path(name: str, path: Path) -> None:
    """Raise a UserError if `name` cannot be a name on the Hub: "name" or "owner/name"."""
    is_hub_name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not names.is_data_file(path)
    if is_hub_name and not name.startswith("."):
        return
    folder = path.parent if path.parent.is_dir() else None
    beside = sorted(entry.name for entry in folder.iterdir()) if folder else []
    if folder is None:
        hint = f": there is no directory {path.parent}"
    else:
        hint = near(path.name, beside) or (f": {folder} holds {', '.join(beside[:8])}" if beside else "")
    raise UserError(f"There is no file or directory {name}{hint}.")
