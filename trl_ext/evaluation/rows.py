"""Which rows a finished run is evaluated on: those it held out itself, or other data of any recognised format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset

from trl_ext import data, demo
from trl_ext.build import dataset as examples
from trl_ext.data import holdout
from trl_ext.data.sources import COMPRESSED, READERS, splits
from trl_ext.demo import EMBEDDED
from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError


class Asked(NamedTuple):
    """What the user asked for.

    Attributes:
        dataset: A name on the Hub, a file or a directory; `None` for the run's own data.
        split: Of it; `None` for what the run held out, or else the test split.
        columns: `dataset_columns` of `dataset`.
        limit: The first so many rows only.
    """

    dataset: str | None = None
    split: str | None = None
    columns: dict[str, str] | None = None
    limit: int | None = None


class Rows(NamedTuple):
    """Data to evaluate on.

    Attributes:
        dataset: Pairs, or single answers with a label, of TRL's types.
        is_paired: Pairs.
        name: Of the dataset and its split, short.
        statements: What was recognised, dropped and is worth knowing, in sentences.
        dropped: Rows that could not be used; of rows held out by `eval_size`, those of the whole split are in `statements`.
        was_trained_on: Whether the run trained on these rows, on some of them at least.
    """

    dataset: Dataset
    is_paired: bool
    name: str
    statements: list[str]
    dropped: int = 0
    was_trained_on: bool = False


def find(recipe: Recipe, args: Any, asked: Asked) -> Rows:
    """The rows to evaluate on: by default the very rows the run evaluated on, or else its data's test split.

    Args:
        recipe: Of the run.
        args: The configuration its trainer had.
        asked: What the user asked for.

    Raises:
        UserError: There is no such data, the run held none out, or it holds no preferences.
    """
    is_default = asked.dataset is None and asked.split is None
    evaluates = args.eval_strategy != "no"
    if is_default and (recipe.get("eval_size") or (recipe.get("datasets") and evaluates)):
        rows = _held_out(recipe, args)
    else:
        rows = _named(recipe, asked)
    if is_default and evaluates and not recipe.get("eval_size"):
        rows = _first(rows, recipe.get("max_eval_samples"), "as the run evaluated: `max_eval_samples`")
    if asked.dataset is not None and not rows.was_trained_on:
        rows = _compared(rows, recipe, args)
    if {"image", "images"} & set(rows.dataset.column_names):
        raise UserError(f"{rows.name} holds images, and only text is evaluated: name other data with `--dataset`.")
    return _first(rows, asked.limit, "`--limit`")


def _held_out(recipe: Recipe, args: Any) -> Rows:
    """The rows that were cut off the run's training data."""
    if not recipe.method.is_default:
        raise UserError(
            f"This {recipe.title} run did not hold out preferences, but what it trained on: name pairs with `--dataset`."
        )
    statements: list[str] = []
    rows = examples.load(recipe, args, statements)[1]
    pairs = rows if recipe.paired else _paired_again(rows)
    name = f"{_short(recipe.get('dataset_name') or 'mixture')}-held-out"
    return Rows(rows if pairs is None else pairs, pairs is not None, name, statements)


def _named(recipe: Recipe, asked: Asked) -> Rows:
    """A split of a dataset: of the run's own, read as it was, or of another one."""
    own = recipe.get("dataset_name")
    is_own = asked.dataset is None or _place(asked.dataset) == _place(own or "")
    name = own if is_own else asked.dataset
    if name is None:
        raise UserError(
            "The data are a mixture, of which nothing is held out: set `eval_size`, or name data with `--dataset`."
        )
    options: dict[str, Any] = {"columns": asked.columns}
    if is_own:
        options |= {key: recipe.get(f"dataset_{key}") for key in ("config", "revision")}
        options |= {
            "columns": asked.columns or recipe.get("dataset_columns"),
            "format": recipe.get("dataset_format") or "auto",
            "streaming": bool(recipe.get("dataset_streaming")),
        }
    split = asked.split or _default_split(name, options, recipe if is_own else None)
    title = {"title": EMBEDDED} if name == EMBEDDED else {}
    loaded = data.load(_place(name), split=split, training=False, **options, **title)
    dataset, report = loaded
    if isinstance(dataset, IterableDataset):
        dataset = Dataset.from_list(list(dataset if asked.limit is None else dataset.take(asked.limit)))
    was_trained_on = is_own and _whole(split) == _whole(_trained(recipe))
    statements = report.sentences()
    if was_trained_on:
        statements.append("The run trained on this split: this says how well it was learnt, nothing about other data.")
    dropped = sum(each.rows for each in report.dropped.values())
    return Rows(dataset, report.paired, f"{_short(name)}-{split}", statements, dropped, was_trained_on)


def _compared(rows: Rows, recipe: Recipe, args: Any) -> Rows:
    """The rows with what is to be said of those that the run trained on as well."""
    try:
        train = examples.load(recipe, args, [])[0]
    except UserError as error:  # moved or deleted since
        unknown = f"Whether some of these rows were trained on cannot be told: {error}"
        return rows._replace(statements=[*rows.statements, unknown])
    said = examples.in_common(train, rows.dataset)
    was_trained_on = bool(said) and holdout.overlap(train, rows.dataset).rows > 0
    return rows._replace(statements=[*rows.statements, *said], was_trained_on=was_trained_on)


def _default_split(name: str, options: dict[str, Any], recipe: Recipe | None) -> str:
    """The run's test split, `test`, or the only one there is, unless the run trained on it."""
    available = splits(_place(name), config=options.get("config"), revision=options.get("revision"))
    trained = None if recipe is None else _whole(_trained(recipe))
    usable = [split for split in available if split != trained]
    for wanted in ((recipe.get("dataset_test_split") if recipe else None), "test"):
        if wanted and _whole(wanted) in usable:
            return wanted
    if not usable:
        raise UserError(
            f"The run held no data out, and {name} has no split but `{trained}`, which it trained on: name other data with "
            f"`--dataset`, `--split {trained}` to measure on training data, or train with `eval_size: 200`, which holds rows out."
        )
    if recipe is None and len(usable) == 1:
        return usable[0]
    raise UserError(f"{name} has no split `test` but {', '.join(available)}: choose with `--split`.")


def _paired_again(answers: Dataset) -> Dataset | None:
    """Pairs, where every two neighbours are a desirable and an undesirable answer to one prompt, which is how pairs are
    split into single answers; `None` for other answers."""
    first, second = answers.select(range(0, len(answers), 2)), answers.select(range(1, len(answers), 2))
    if len(first) != len(second) or not all(first["label"]) or any(second["label"]):
        return None
    if first["prompt"][:] != second["prompt"][:]:
        return None
    pairs = first.remove_columns("label").rename_column("completion", "chosen")
    return pairs.add_column("rejected", second["completion"][:], feature=second.features["completion"])


def _first(rows: Rows, limit: int | None, why: str) -> Rows:
    if limit is None or limit >= len(rows.dataset):
        return rows
    statements = [*rows.statements, f"Only the first {limit:,} are evaluated ({why})."]
    return rows._replace(dataset=rows.dataset.select(range(limit)), statements=statements)


def _place(name: str) -> str:
    """What to open: the path of the embedded data, an absolute path, or a name on the Hub."""
    if name == EMBEDDED:
        return str(demo.DATA)
    path = Path(name).expanduser()
    return str(path.resolve()) if name and path.exists() else name


def _trained(recipe: Recipe) -> str:
    return recipe.get("dataset_train_split") or "train"


def _whole(split: str) -> str:
    """`train` of `train[:10%]`."""
    return re.split(r"[\[+]", split, maxsplit=1)[0].strip()


def _short(name: str) -> str:
    """A name fit for a file's: without folders, organisation and endings."""
    path = Path(name)
    while path.suffix in (*READERS, *COMPRESSED):
        path = Path(path.stem)
    return path.name
