"""Rules about a mixture of datasets (`datasets`), before any data is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.checks.data import dataset_path
from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.data.files.column_types import column_types
from trl_ext.data.files.problems import find_problem
from trl_ext.data.formats import CHOICES
from trl_ext.data.recognise_file import recognise_file
from trl_ext.support import messages
from trl_ext.support.errors import UserError
from trl_ext.support.paths import in_full


@problem("datasets", recipe_only=True)
def entries(s: Settings) -> Iterator[str]:
    """Types and names of an entry's settings are judged where those of the recipe are (`trl_ext.recipe.layers.types`)."""
    entries = _entries(s)
    for number, entry in enumerate(entries, 1):
        where = f"Entry {number} of {s.where('datasets')}"
        path = entry.get("path") if isinstance(entry, dict) else None
        if not path:
            yield f"{where} names no dataset: write `datasets: [{{path: org/name, split: train}}]`."
        elif isinstance(path, str) and (end := dataset_path(path)):
            yield f"{where}: `path` {end}"
    shares = [isinstance(entry, dict) and entry.get("fraction") is not None for entry in entries]
    if any(shares) and not all(shares):
        yield f"{s.where('datasets')}: give every entry a `fraction`, or none of them."
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, dict) and (end := _share(entry)):
            yield f"Entry {number} of {s.where('datasets')}: `share` {end}"


def _file(entry: Any) -> Path | None:
    """The file that an entry names; `None` if it names none."""
    path = entry.get("path") if isinstance(entry, dict) else None
    try:
        file = Path(in_full(path)) if isinstance(path, str) else None
    except ValueError:  # reported by `entries`
        return None
    return file if file is not None and file.is_file() else None


def _share(entry: dict) -> str | None:
    """The end of a sentence about the `share` of an entry; `None` if it is sound."""
    share = entry.get("share")
    if share is None:
        return None
    if entry.get("fraction") is not None:
        return "is the share of this dataset that is used, and `fraction` its share of the mixture. Keep one of them."
    if isinstance(share, (int, float)) and not 0 < share <= 1:
        return f"is {share}. Give a number above 0 and at most 1."
    return None


@problem("datasets", recipe_only=True)
def files_of_a_mixture(s: Settings) -> Iterator[str]:
    """Local JSON files can be read, and a column has the same type in all of them."""
    first: dict[str, tuple[int, str]] = {}  # column: number of the first entry that has it, and its type there
    for number, entry in enumerate(_entries(s), 1):
        file = _file(entry)
        if file is None or entry.get("data_files"):
            continue
        if (reason := find_problem(file)) is not None:
            yield f"Entry {number} of {s.where('datasets')}: {entry['path']} cannot be read: {reason}"
            continue
        wanted = entry.get("columns")
        for column, kind in column_types(file).items():
            if wanted and column not in ([wanted] if isinstance(wanted, str) else wanted):
                continue
            other, there = first.setdefault(column, (number, kind))
            if kind != there:
                yield (
                    f"{s.where('datasets')}: the column `{messages.shown_text(column)}` holds {there} in entry {other} and {kind} "
                    f"in entry {number}. A column of a mixture has one type. Write the rows of both files in the same form."
                )


@problem("datasets", "dataset_format", "dataset_columns", recipe_only=True)
def one_format(s: Settings) -> Iterator[str]:
    """A mixture is read in the format that its first rows have: other rows would be dropped."""
    if not s.method.reads_preferences or s["dataset_columns"] or s["dataset_format"] not in (None, *CHOICES):
        return
    first: dict[str, int] = {}  # what a row is: number of the first entry with such rows
    for number, entry in enumerate(_entries(s), 1):
        file = _file(entry)
        if file is None or {"data_files", "columns"} & entry.keys() or find_problem(file) is not None:
            continue
        try:
            found = recognise_file(file, format=s["dataset_format"] or "auto")
        except UserError as error:
            yield from (f"Entry {number} of {s.where('datasets')}: {reason}" for reason in error.problems)
            continue
        if found is not None:
            first.setdefault(f"{'pairs' if found.paired else 'labelled completions'} ({found.title})", number)
    if len(first) > 1:
        (one, there), (other, here), *_ = first.items()
        yield (
            f"{s.where('datasets')}: entry {there} has {one}, and entry {here} has {other}. A mixture is read in one format. Write "
            "the rows of both files in the same form."
        )


@problem("datasets", "dataset_train_split", recipe_only=True)
def train_split_of_a_mixture(s: Settings) -> Iterator[str]:
    wanted = s["dataset_train_split"]
    if s["datasets"] and isinstance(wanted, str) and wanted.partition("[")[0].strip() != "train":
        yield (
            f"{s.where('dataset_train_split')} is {messages.shown_text(wanted)}, and a mixture has the split `train` and, with "
            "`test_split_size`, `test`. Remove it, and give each entry of `datasets` its `split`."
        )


@problem("datasets", "streaming", "test_split_size", recipe_only=True)
def parts_of_streams(s: Settings) -> Iterator[str]:
    """A part of the rows needs their number, which is not known of a stream."""
    if not s["datasets"] or not s["streaming"]:
        return
    keys = [
        key
        for key in ("fraction", "share")
        if any(isinstance(e, dict) and e.get(key) is not None for e in _entries(s))
    ]
    for key in [*keys, *(["test_split_size"] if s["test_split_size"] is not None else [])]:
        where = f"`{key}` in {s.where('datasets')}" if key in keys else s.where(key)
        yield f"{where} needs the number of rows, which is not known of a stream. Remove it, or remove {s.where('streaming')}."


@problem(
    "datasets",
    "test_split_size",
    "eval_size",
    "eval_strategy",
    "eval_on_start",
    "dataset_test_split",
    recipe_only=True,
)
def evaluation_on_a_mixture(s: Settings) -> Iterator[str]:
    is_off = s["eval_strategy"] in (None, "no")
    wanted = str(s["dataset_test_split"] or "test").partition("[")[0].strip()
    there = ["train"] + (["test"] if s["test_split_size"] is not None else [])
    if not s["datasets"] or s["eval_size"] or (is_off and not s["eval_on_start"]) or wanted in there:
        return
    asked = f"{s.where('eval_on_start')} is true" if is_off else f"{s.where('eval_strategy')} is {s['eval_strategy']}"
    yield (
        f"{asked}, which evaluates on the split `{messages.shown_text(wanted)}`, and the mixture `datasets` has "
        f"{'only the split' if len(there) == 1 else 'the splits'} `{'` and `'.join(there)}`. Set `eval_size` to hold rows out "
        "(`eval_size: 200`), or `test_split_size`."
    )


def _entries(s: Settings) -> list:
    return s["datasets"] if isinstance(s["datasets"], list) else [s["datasets"]]


@note("datasets", "dataset_name")
def mixture_wins(s: Settings) -> Iterator[str]:
    if s["datasets"] and s["dataset_name"]:
        yield f"{s.named('datasets', 'dataset_name')}: the mixture `datasets` is used, and `dataset_name` is ignored."


@note("datasets", "dataset_config", "dataset_revision", "dataset_streaming")
def replaced_by_a_mixture(s: Settings) -> Iterator[str]:
    for key in ("dataset_config", "dataset_revision", "dataset_streaming"):
        if s["datasets"] and s[key]:
            yield f"{s.where(key)} has no effect with `datasets`: its entries have settings of their own."


@note("datasets", "test_split_size")
def test_split_without_a_mixture(s: Settings) -> Iterator[str]:
    if s["test_split_size"] is not None and not s["datasets"]:
        yield (
            f"{s.where('test_split_size')} has no effect without `datasets`: use `eval_size` to hold out rows of a single dataset."
        )


@note("datasets", "streaming")
def streaming_without_a_mixture(s: Settings) -> Iterator[str]:
    if s["streaming"] and not s["datasets"]:
        yield (
            f"{s.where('streaming')} has no effect without `datasets`: use `dataset_streaming` to stream a single dataset."
        )
