"""Load preference data of any recognised format as TRL's paired or unpaired type."""

from __future__ import annotations

import os
from collections.abc import Mapping

from datasets import Dataset, DatasetDict, IterableDataset

from trl_ext.data.checks import require_rows, require_teachable
from trl_ext.data.formats import recognise
from trl_ext.data.hints import check_format, check_mapping, unrecognised
from trl_ext.data.normalise import normalise
from trl_ext.data.report import Loaded, Report, place
from trl_ext.data.sampling import sample, with_verdicts, without_format
from trl_ext.data.sources import open_source
from trl_ext.support.errors import UserError

GIVEN = "the dataset given"


def load(
    name_or_path: str | os.PathLike | Dataset | DatasetDict | IterableDataset,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",
    streaming: bool = False,
    training: bool = True,
    title: str | None = None,
) -> Loaded:
    """Read one split, recognise its format, and return it in TRL's type with a report.

    Args:
        name_or_path: Name on the Hub; a JSON, JSONL, CSV or Parquet file (compressed or not); a directory of
            such; what ``save_to_disk`` wrote; or a dataset in memory.
        split: Name of the split, with a slice (``train[:10%]``) if wanted. A single file has "train" only.
        config: Configuration of a Hub dataset.
        revision: Commit, branch or tag of a Hub dataset.
        columns: {name known here: column of the dataset}, for columns that are named otherwise; see
            ``formats.READ``.
        format: "auto", or the name of a format to insist on; see ``formats.NAMES``.
        streaming: Read while training instead of before; nothing is counted then.
        training: Refuse data that cannot teach (`require_teachable`); False for data to evaluate on.
        title: What to call it in sentences; its own name if not given.

    Returns:
        (dataset, report). Pairs have prompt, chosen, rejected; single answers prompt, completion and label
        (bool). ``images``, ``image``, ``tools`` and ``chat_template_kwargs`` pass through, others do not.

    Raises:
        UserError: not found, not readable, no such split, columns not recognised, or nothing to learn from.
    """
    check_format(format)
    dataset, source = open_source(name_or_path, split=split, config=config, revision=revision, streaming=streaming)
    loaded = read(dataset, columns=columns, format=format, source=title or source, split=split)
    require_rows(loaded.report)
    if training:
        require_teachable(loaded.report)
    return loaded


def read(
    dataset: Dataset | IterableDataset,
    *,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",
    source: str = GIVEN,
    split: str = "",
) -> Loaded:
    """Recognise and convert a dataset that is already open; nothing is refused for what its rows say.

    Raises:
        UserError: no rows, or its columns are not recognised.
    """
    dataset = without_format(dataset)
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise UserError(f"{place(source, split)} has no rows; choose another split or file.")
    if columns:
        dataset = renamed(dataset, dict(columns), source)
    found = sample(dataset)
    match = recognise(found, format)
    if match is None and len(found.rows) > 0:
        found = sample(dataset, 16 * len(found.rows))
        match = recognise(found, format)
    if match is None:
        raise unrecognised(sample(dataset, known=None), source, format)
    match = with_verdicts(match, dataset, found, source)
    return Loaded(*normalise(dataset, match, found, source, split))


def describe(dataset: Dataset | IterableDataset) -> Report:
    """The report on a dataset, as `load` would give it; the dataset is not changed."""
    return read(dataset).report


def renamed(dataset: Dataset | IterableDataset, mapping: dict[str, str], source: str) -> Dataset | IterableDataset:
    """The dataset with its columns under the names known here; a column already of that name gives way."""
    check_mapping(mapping, tuple(dataset.column_names), source)
    renames = {column: known for known, column in mapping.items() if column != known}
    in_the_way = [known for known in renames.values() if known in dataset.column_names and known not in renames]
    return dataset.remove_columns(in_the_way).rename_columns(renames)
