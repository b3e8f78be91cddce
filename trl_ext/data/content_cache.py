"""Keep what `datasets` makes of local files in a folder that is named by their content.

By itself, `datasets` (5.2) recognises a file by its path and time stamp. A file that was replaced by one with the same time
stamp (by rsync, tar or cp -p) would be read as it was before.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import xxhash
from datasets import Dataset

from trl_ext.data.cache_keys import mixed

FOLDER = "by_content"
BLOCK = 2**24


def digest(files: Iterable[Path]) -> str:
    """A hash of the names and the content of files."""
    hashed = xxhash.xxh3_128()
    for path in sorted(files):
        hashed.update(f"{path}\0{path.stat().st_size}\0".encode("utf-8", "surrogatepass"))
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                hashed.update(block)
    return hashed.hexdigest()


def folder(content: str) -> Path:
    """Where `datasets` keeps what it makes of files with this digest."""
    return Path(datasets.config.HF_DATASETS_CACHE, FOLDER, content)


def keyed(dataset: Any, content: str) -> Any:
    """The dataset with a fingerprint that depends on the files it was read from; anything but a `Dataset` is returned as it is."""
    if isinstance(dataset, Dataset):
        dataset._fingerprint = mixed(dataset, content)
    return dataset


def files_of(path: str, data_files: Any = None) -> list[Path]:
    """The local files that `load_dataset(path, data_files=…)` may read; none for a name on the Hub."""
    if data_files:
        given = data_files.values() if isinstance(data_files, dict) else [data_files]
        patterns = [name for entry in given for name in ([entry] if isinstance(entry, str) else entry)]
        base = Path(path).expanduser() if Path(path).expanduser().is_dir() else Path()
        found = [Path(name) for pattern in patterns for name in glob.glob(str(base / pattern), recursive=True)]
        return [file for file in found if file.is_file()]
    place = Path(path).expanduser()
    if place.is_dir():
        return [file for file in place.rglob("*") if file.is_file()]
    return [place] if place.is_file() else []
