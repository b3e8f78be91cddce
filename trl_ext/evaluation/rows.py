"""Find the rows to evaluate a finished run on: those it held out, or other data in any recognised format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset

from trl_ext import data, demo
from trl_ext.build import dataset as recipe_data
from trl_ext.build.template import in_form
from trl_ext.data import golds, margins, template_variables, thoughts
from trl_ext.data.files.names import without_endings
from trl_ext.data.overlap import overlap
from trl_ext.data.sources import splits
from trl_ext.demo import EMBEDDED
from trl_ext.recipe import Recipe
from trl_ext.support.counts import are, count
from trl_ext.support.errors import UserError

TRAINED_ON = "The run trained on this split, so the results say nothing about other prompts."
"""A statement about prompts of the training split."""


class RowChoice(NamedTuple):
    """The rows the user asked for.

    Attributes:
        dataset: A name on the Hub, a file or a directory; `None` for the run's own data.
        split: Split of the dataset; `None` for the rows the run held out, or else the test split.
        columns: `dataset_columns` of `dataset`.
        limit: Maximum number of rows; the first ones are taken.
    """

    dataset: str | None = None
    split: str | None = None
    columns: dict[str, str] | None = None
    limit: int | None = None


class Rows(NamedTuple):
    """Data to evaluate on.

    Attributes:
        dataset: Pairs, or labelled completions, in TRL's types.
        is_paired: Whether the rows are pairs.
        name: Short name of the dataset and its split.
        statements: Sentences for the user: the recognised format, dropped rows, rows that were trained on.
        dropped: Number of unusable rows. For rows held out by `eval_size`, `statements` has the number for the whole split.
        was_trained_on: Whether the run trained on at least some of these rows.
        thoughts: The run's setting `thoughts`, which was applied to the text, and is still to be applied to the tokens.
    """

    dataset: Dataset
    is_paired: bool
    name: str
    statements: list[str]
    dropped: int = 0
    was_trained_on: bool = False
    thoughts: str = thoughts.ALL


def find_rows(recipe: Recipe, args: Any, choice: RowChoice) -> Rows:
    """The rows to evaluate on: by default the very rows the run evaluated on, or else its data's test split.

    Args:
        recipe: The run's recipe.
        args: The configuration of its trainer.
        choice: The rows the user asked for.

    Raises:
        UserError: There is no such data, the run held none out, or the data has no preferences.
    """
    is_default = choice.dataset is None and choice.split is None
    evaluates = args.eval_strategy != "no" or args.eval_on_start
    if is_default and (recipe.get("eval_size") or (recipe.get("datasets") and evaluates)):
        rows = _held_out(recipe, args)
    else:
        rows = _named(recipe, args, choice)
    rows = rows._replace(thoughts=recipe.effective("thoughts"))
    if is_default and evaluates and not recipe.get("eval_size"):
        rows = _first(rows, recipe.get("max_eval_samples"), "`max_eval_samples`, as in the run's own evaluation")
    if choice.dataset is not None and not rows.was_trained_on:
        rows = _compared(rows, recipe, args)
    return _first(rows, choice.limit, "`--limit`")


def _held_out(recipe: Recipe, args: Any) -> Rows:
    """The rows that the run held out of its training data."""
    if not recipe.method.is_default:
        raise UserError(
            f"This {recipe.title} run held out data of its own kind, which has no preferences: choose pairs with `--dataset`."
        )
    statements: list[str] = []
    rows = recipe_data.load(recipe, args, statements)[1]
    pairs = rows if recipe.paired else _paired_again(rows)
    name = f"{without_endings(recipe.get('dataset_name') or 'mixture')}-held-out"
    return Rows(rows if pairs is None else pairs, pairs is not None, name, statements)


def _named(recipe: Recipe, args: Any, choice: RowChoice) -> Rows:
    """A split of a dataset: the run's own, read as in training, or another one."""
    own = recipe.get("dataset_name")
    is_own = choice.dataset is None or place(choice.dataset) == place(own or "")
    name = own if is_own else choice.dataset
    if name is None:
        raise UserError(
            "The run's data is a mixture, and no rows of it were held out. Set `eval_size` in the recipe and train again, or "
            "choose data with `--dataset`."
        )
    options = reading_options(recipe, choice.columns, is_own)
    if is_own:
        options["pairing"] = recipe_data.pairing(recipe)
    split = choice.split or default_split(name, options, recipe if is_own else None)
    title = {"title": EMBEDDED} if name == EMBEDDED else {}
    statements: list[str] = []
    loaded = data.load(place(name), split=split, training=False, **options, **title)
    loaded = golds.without(margins.without(_in_memory(loaded, choice.limit)))
    loaded = thoughts.without(template_variables.as_mappings(loaded), recipe.effective("thoughts"))
    dataset, report = in_form(recipe, loaded, args, statements, is_own=is_own)
    was_trained_on = is_own and whole(split) == whole(train_split(recipe))
    statements = [*report.sentences(), *statements]
    if was_trained_on:
        statements.append("The run trained on this split, so the results say nothing about other data.")
    dropped = sum(each.rows for each in report.dropped.values())
    return Rows(dataset, report.paired, f"{without_endings(name)}-{split}", statements, dropped, was_trained_on)


def _in_memory(loaded: data.Loaded, limit: int | None) -> data.Loaded:
    """The examples; of a stream, the first ones in a dataset."""
    rows = loaded.dataset
    if not isinstance(rows, IterableDataset):
        return loaded
    rows = Dataset.from_list(list(rows if limit is None else rows.take(limit)), features=rows.features)
    return loaded._replace(dataset=rows)


def _compared(rows: Rows, recipe: Recipe, args: Any) -> Rows:
    """The rows, with statements about those that the run also trained on."""
    try:
        train = recipe_data.load(recipe, args, [])[0]
    except UserError as error:  # moved or deleted since
        unknown = f"The training data cannot be read, so it is unknown whether the run trained on some of these rows. {error}"
        return rows._replace(statements=[*rows.statements, unknown])
    said = recipe_data.in_common(train, rows.dataset)
    was_trained_on = bool(said) and overlap(train, rows.dataset).rows > 0
    return rows._replace(statements=[*rows.statements, *said], was_trained_on=was_trained_on)


def reading_options(recipe: Recipe, columns: Any, is_own: bool) -> dict[str, Any]:
    """How a dataset is read: the run's own as in training, another one by `columns` alone."""
    if not is_own:
        return {"columns": columns}
    return {
        "config": recipe.get("dataset_config"),
        "revision": recipe.get("dataset_revision"),
        "columns": columns or recipe.get("dataset_columns"),
        "format": recipe.get("dataset_format") or "auto",
        "streaming": bool(recipe.get("dataset_streaming")),
    }


def default_split(name: str, options: dict[str, Any], recipe: Recipe | None) -> str:
    """The run's test split, `test`, or the only one there is, unless the run trained on it."""
    available = splits(place(name), config=options.get("config"), revision=options.get("revision"))
    trained = None if recipe is None else whole(train_split(recipe))
    usable = [split for split in available if split != trained]
    for wanted in ((recipe.get("dataset_test_split") if recipe else None), "test"):
        if wanted and whole(wanted) in usable:
            return wanted
    if not usable:
        raise UserError(
            f"The run held no rows out, and {name} has only the split `{trained}`, on which it trained. Choose other data with "
            f"`--dataset`, or `--split {trained}` to evaluate on training data, or train again with `eval_size: 200`, which holds "
            "200 rows out."
        )
    if recipe is None and len(usable) == 1:
        return usable[0]
    raise UserError(f"{name} has no split `test`. Its splits are {', '.join(available)}: choose one with `--split`.")


def _paired_again(rows: Dataset) -> Dataset | None:
    """Pairs from the labelled completions they were split into: each desirable one is followed by the undesirable one of
    the same prompt. `None` for other labelled completions."""
    first, second = rows.select(range(0, len(rows), 2)), rows.select(range(1, len(rows), 2))
    if len(first) != len(second) or not all(first["label"]) or any(second["label"]):
        return None
    if first["prompt"][:] != second["prompt"][:]:
        return None
    pairs = first.remove_columns("label").rename_column("completion", "chosen")
    return pairs.add_column("rejected", second["completion"][:], feature=second.features["completion"])


def _first(rows: Rows, limit: int | None, why: str) -> Rows:
    if limit is None or limit >= len(rows.dataset):
        return rows
    statements = [*rows.statements, f"Only the first {count(limit, 'rows')} {are(limit)} evaluated ({why})."]
    return rows._replace(dataset=rows.dataset.select(range(limit)), statements=statements)


def place(name: str) -> str:
    """The path of the embedded data, an absolute path, or a name on the Hub."""
    if name == EMBEDDED:
        return str(demo.DATA)
    path = Path(name).expanduser()
    return str(path.resolve()) if name and path.exists() else name


def train_split(recipe: Recipe) -> str:
    return recipe.get("dataset_train_split") or "train"


def whole(split: str) -> str:
    """`train` of `train[:10%]`."""
    return re.split(r"[\[+]", split, maxsplit=1)[0].strip()
