"""What can be known to be wrong about the data of a recipe before any is read."""

import json
from collections.abc import Iterator
from pathlib import Path

from trl_ext.data.files.names import is_data_file
from trl_ext.demo import EMBEDDED
from trl_ext.recipe import schema
from trl_ext.recipe.convert import convert
from trl_ext.recipe.paths import absent, in_full, is_path
from trl_ext.recipe.renamed_keys import line
from trl_ext.recipe.settings import Settings
from trl_ext.recipe.vocabulary import dataset_formats
from trl_ext.support import messages


def dataset(s: Settings) -> Iterator[str]:
    if s["datasets"]:
        yield from _mixture(s)
    elif not s["dataset_name"] and not s.meant & {"dataset_name", "datasets"}:
        yield (
            "`dataset_name` is missing: give a Hub name (org/name), a local file (JSON, JSONL, CSV, Parquet) "
            "or folder, or 'embedded' for the preference set that comes with trl-ext."
        )
    elif problem := dataset_path(s["dataset_name"] or EMBEDDED):
        yield f"{s.where('dataset_name')} {problem}"


def split(s: Settings) -> Iterator[str]:
    name, wanted = s["dataset_name"], s["dataset_train_split"]
    if s["datasets"] or not isinstance(name, str) or not Path(name).is_file():
        return
    if isinstance(wanted, str) and wanted.partition("[")[0].strip() != "train":
        yield (
            f"{s.where('dataset_train_split')} is {messages.shown_text(wanted)}, and {name} is one file, whose rows are the "
            "split `train`: remove it."
        )


def evaluation(s: Settings) -> Iterator[str]:
    """Evaluation needs rows: held out, or of a split that there is."""
    name, strategy = s["dataset_name"], s["eval_strategy"]
    if strategy in (None, "no") or s["eval_size"] or s["datasets"] or not isinstance(name, str):
        return
    there, wanted = stored_splits(Path(name).expanduser()), s["dataset_test_split"] or "test"
    if there is not None and str(wanted).partition("[")[0].strip() not in there:
        splits = f"the split `{there[0]}` only" if len(there) == 1 else f"the splits {', '.join(there)}"
        remedy = (
            "Name another split (`dataset_test_split`); none can be held out of a stream."
            if s["dataset_streaming"]
            else f"Set `eval_size` to hold rows out ({line('eval_size', 200)}), or name another split (`dataset_test_split`)."
        )
        yield (
            f"{s.where('eval_strategy')} is {strategy}, and {name} has {splits}; `{messages.shown_text(str(wanted))}` was "
            f"asked for. {remedy}"
        )


def stored_splits(path: Path) -> tuple[str, ...] | None:
    """The splits of a file, or of a folder that `save_to_disk` left; `None` where only loading tells."""
    if path.is_file() or (path / "state.json").is_file():
        return ("train",)
    try:
        return tuple(map(str, json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def stream(s: Settings) -> Iterator[str]:
    """A stream has no number of rows."""
    key = "streaming" if s["datasets"] else "dataset_streaming"
    if not s[key]:
        return
    where = s.where(key)
    if s["eval_size"]:
        yield (
            f"{s.where('eval_size')} holds rows out of the training split, which a stream has no number of: remove {where}, "
            "or evaluate on a split of its own (`dataset_test_split`)."
        )
    if (s["max_steps"] or -1) < 1:
        yield (
            f"{where} is on, and a stream does not tell how many rows an epoch has: add {line('max_steps', 1000)}, or as many "
            "steps as the run is to take."
        )


def columns(s: Settings) -> Iterator[str]:
    mapping = s["dataset_columns"]
    if mapping and not all(isinstance(column, str) for column in mapping.values()):
        yield (
            f"{s.where('dataset_columns')} maps to something that is not a column's name: write "
            f"{line('dataset_columns', {'prompt': 'question', 'chosen': 'good', 'rejected': 'bad'})}."
        )


def dataset_format(s: Settings) -> Iterator[str]:
    if "dataset_format" in s and s["dataset_format"] not in dataset_formats():
        meant = messages.one_of(s["dataset_format"], dataset_formats())
        yield f"{s.where('dataset_format')} is {s['dataset_format']}: {meant}"


def _mixture(s: Settings) -> Iterator[str]:
    known = schema.fields("DatasetConfig")
    entries = s["datasets"] if isinstance(s["datasets"], list) else [s["datasets"]]
    for number, entry in enumerate(entries, 1):
        where = f"Entry {number} of {s.where('datasets')}"
        if not isinstance(entry, dict) or not entry.get("path"):
            example = line("datasets", [{"path": "org/name", "split": "train"}])
            yield f"{where} names no dataset: write {example}."
            continue
        for key, value in entry.items():
            if key not in known:
                meant = messages.one_of(str(key), tuple(known))
                yield f"{where}: `{messages.shown_text(str(key))}` is not a setting of a dataset: {meant}"
                continue
            try:
                convert(known[key], value)
            except ValueError as error:
                yield f"{where}: `{key}` {error}"
        if isinstance(entry["path"], str) and (problem := dataset_path(entry["path"])):
            yield f"{where}: `path` {problem}"
    shares = [isinstance(entry, dict) and entry.get("fraction") is not None for entry in entries]
    if any(shares) and not all(shares):
        yield f"{s.where('datasets')}: give every entry a `fraction`, or none."


def dataset_path(name: str) -> str | None:
    """The end of a sentence about a dataset's path that is not there; `None` if it may be a Hub name."""
    try:
        path = Path(in_full(name))
    except ValueError as error:
        return str(error)
    if name == EMBEDDED or path.exists():
        return None
    if is_data_file(name) or is_path(name):
        return f"is {name}, and {absent(path, 'file or folder')}"
    return None


CHECKS = (dataset, split, evaluation, stream, columns, dataset_format)
