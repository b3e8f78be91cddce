"""Load one split with the `datasets` library, or pick it from splits that are in memory."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, ReadInstruction, load_dataset
from pandas.errors import ParserWarning

from trl_ext.data import content_cache
from trl_ext.data.column_errors import near
from trl_ext.data.files.parquet_types import differing_column
from trl_ext.data.files.problems import explain, find_problem
from trl_ext.data.formats import READ
from trl_ext.data.hub import loading_error, unusable_cache
from trl_ext.support.errors import UserError

AnyDataset = Dataset | IterableDataset


def load_split(builder: str, source: str, split: str, *, files: Sequence[Path] = (), **options: Any) -> AnyDataset:
    """Load a split with `datasets.load_dataset`.

    Args:
        builder: A builder of `datasets`, a folder, or a name on the Hub.
        source: What to call the data.
        split: Name of the split.
        files: Local files to examine if loading fails.
        options: Further arguments of `load_dataset`.

    Raises:
        UserError: The data cannot be loaded.
    """
    try:
        with warnings.catch_warnings():
            # pandas only warns about a row that is longer than the header, and shifts or cuts its cells.
            warnings.simplefilter("error", ParserWarning)
            dataset = _load(builder, split, files, options)
        if isinstance(dataset, Dataset):  # text that is not UTF-8 would fail much later, where it is first read
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
        if (problem := differing_column(files)) is not None:
            raise UserError(f"{source} cannot be read: {problem}") from error
        raise loading_error(error, source, options.get("name")) from error


def _load(builder: str, split: str, files: Sequence[Path], options: dict[str, Any]) -> AnyDataset:
    if not files:
        return load_dataset(builder, split=split, **options)
    with _uncounted():
        if options.get("streaming"):  # a stream is not cached
            return load_dataset(builder, split=split, **options)
        content = content_cache.digest(files)
        home = str(content_cache.folder(content))
        return content_cache.keyed(load_dataset(builder, split=split, cache_dir=home, **options), content)


@contextmanager
def _uncounted() -> Iterator[None]:
    """Inside, `datasets` does not report the use of a builder: local files need no network, and no time to wait for one."""
    before = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = before


def pick_split(splits: DatasetDict | IterableDatasetDict, split: str, source: str) -> AnyDataset:
    """One of `splits`, or the slice of it that `split` names.

    Raises:
        UserError: There is no such split or slice.
    """
    name = split_name(split)
    if name not in splits:
        raise UserError(f"{source} has no split `{name}`{near(name, splits)}. It has {', '.join(splits)}.")
    dataset = splits[name]
    if name == split:
        return dataset
    if isinstance(dataset, IterableDataset):
        raise UserError(f"{source}: a stream cannot be sliced (`{split}`). Use `max_train_samples`.")
    try:
        part = ReadInstruction.from_spec(split).to_absolute({name: len(dataset)})
    except (ValueError, AssertionError) as error:
        raise UserError(f"{source}: the slice `{split}` is not valid: {first_line(error)}.") from error
    return dataset.select(range(part[0].from_ or 0, len(dataset) if part[0].to is None else part[0].to))


def split_name(split: str) -> str:
    """ "train" of "train[:10%]"."""
    return re.split(r"[\[+]", split, maxsplit=1)[0].strip()


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
