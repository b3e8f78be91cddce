"""Load preference data of any recognised format as TRL's paired or unpaired type."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from datasets import Dataset, DatasetDict, IterableDataset

from trl_ext.data.checks import require_rows, require_teachable
from trl_ext.data.column_errors import check_format, check_pairing, check_prompt, unrecognised
from trl_ext.data.column_paths import parse
from trl_ext.data.convert import convert
from trl_ext.data.empty_images import without_empty_images
from trl_ext.data.formats import recognise
from trl_ext.data.formats.pairing import DEFAULT, Pairing
from trl_ext.data.label_verdicts import with_verdicts
from trl_ext.data.renaming import lifted, mapped, with_known_names
from trl_ext.data.report import Loaded, Report, place
from trl_ext.data.sampling import sample, without_format
from trl_ext.data.sources import open_source
from trl_ext.support.errors import UserError

GIVEN = "the given dataset"


def load(
    name_or_path: str | os.PathLike | Dataset | DatasetDict | IterableDataset,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",
    pairing: Pairing = DEFAULT,
    streaming: bool = False,
    training: bool = True,
    title: str | None = None,
) -> Loaded:
    """Read one split, recognise its format, and return it in TRL's type with a report.

    Args:
        name_or_path: A name on the Hub; a JSON, JSONL, CSV, TSV or Parquet file (text files may be compressed); a directory
            of such files, or one written by ``save_to_disk``; or a dataset in memory.
        split: Name of the split, optionally with a slice (``train[:10%]``). A single file has only the split "train".
        config: Configuration of a Hub dataset.
        revision: Commit, branch or tag of a Hub dataset.
        columns: {name known here: column of the dataset, or path inside one such as ``completions[0].text``}, for columns of
            other names; see ``formats.READ`` and ``column_paths``.
        format: The name of a format (see ``formats.NAMES``), or "auto" to recognise it.
        pairing: Which completions are compared, of rows with several that have scores.
        streaming: Read the rows during training instead of before; they are not counted then.
        training: Refuse data that nothing can be learned from (`require_teachable`); False for evaluation data.
        title: What to call the data in sentences (default: its own name).

    Returns:
        (dataset, report). Pairs have prompt, chosen and rejected; labelled completions have prompt, completion and label
        (bool). ``images``, ``image``, ``tools`` and ``chat_template_kwargs`` are kept, other columns are not.

    Raises:
        UserError: The data is not found or not readable, has no such split, its columns are not recognised, or nothing can be
            learned from it.
    """
    check_format(format)
    dataset, source = open_source(name_or_path, split=split, config=config, revision=revision, streaming=streaming)
    loaded = read(dataset, columns=columns, format=format, pairing=pairing, source=title or source, split=split)
    require_rows(loaded.report)
    if training:
        require_teachable(loaded.report)
    return loaded


def read(
    dataset: Dataset | IterableDataset,
    *,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",
    pairing: Pairing = DEFAULT,
    source: str = GIVEN,
    split: str = "",
) -> Loaded:
    """Recognise and convert a dataset that is already open. Rows that teach nothing are not refused.

    Raises:
        UserError: The dataset has no rows, or its columns are not recognised.
    """
    dataset = without_format(dataset)
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise UserError(f"{place(source, split)} has no rows. Choose another split or file.")
    stored = mapped(dataset, columns, source)
    dataset, empty = without_empty_images(with_known_names(stored))
    found = sample(dataset)
    match = recognise(found, format)
    if match is None and len(found.rows) > 0:
        found = sample(dataset, 16 * len(found.rows))
        match = recognise(found, format)
    if match is None:
        raise unrecognised(sample(stored, known=None), source, format, columns)
    if match.cuts_text:
        check_prompt(match, sample(stored, known=None), source, format)
    check_pairing(match, pairing, source)
    match = with_verdicts(dataclasses.replace(match, pairing=pairing), dataset, found, source)
    paths = {place: path for place, text in match.lifted.items() if (path := parse(text, dataset.column_names))}
    loaded = Loaded(*convert(lifted(dataset, paths), match, found, source, split))
    return without_columns(loaded, empty)


def without_columns(loaded: Loaded, names: tuple[str, ...]) -> Loaded:
    """The same with these columns, which were left out, among those that are not used."""
    if not names:
        return loaded
    return loaded._replace(report=dataclasses.replace(loaded.report, ignored=(*loaded.report.ignored, *names)))


def describe(dataset: Dataset | IterableDataset) -> Report:
    """The report that `load` would return for a dataset; the dataset is not changed."""
    return read(dataset).report
