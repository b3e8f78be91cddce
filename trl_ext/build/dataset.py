"""Read the examples that the trainer of a recipe learns from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, IterableDataset

from trl_ext import data, demo
from trl_ext.build.template import in_form
from trl_ext.data import golds, holdout, margins, plain_data, sources, template_variables, thoughts
from trl_ext.data.demonstrations import DEMONSTRATIONS
from trl_ext.data.examples import Examples
from trl_ext.data.formats.pairing import Pairing
from trl_ext.data.mixture import open_mixture
from trl_ext.data.overlap import completions, overlap
from trl_ext.data.prompts import PROMPTS
from trl_ext.data.renaming import renamed
from trl_ext.data.sampling import without_format
from trl_ext.demo import EMBEDDED
from trl_ext.demo.columns import with_columns
from trl_ext.recipe import Recipe
from trl_ext.support.counts import are, count
from trl_ext.support.errors import UserError

WITHOUT_PREFERENCES = {"prompts": PROMPTS, "demonstrations": DEMONSTRATIONS}
"""How rows are read by methods that need no preferences, by `Method.reads`."""


class Source(NamedTuple):
    """Rows as they are stored, and their name in messages."""

    rows: Dataset | IterableDataset
    name: str


def load(recipe: Recipe, args: Any, statements: list[str]) -> tuple[Any, Any]:
    """Training and evaluation data of `read`."""
    found = read(recipe, args, statements)
    return found.train, found.evaluation


def read(
    recipe: Recipe,
    args: Any,
    statements: list[str],
    first: int | None = None,
    tokenizer: Callable[[], Any] | None = None,
) -> Examples:
    """Read training and evaluation data as the trainer needs them.

    Evaluation data is held out of the training split before pairs are split into single completions, and all rows of a
    prompt stay on one side.

    Args:
        recipe: Names the data.
        args: The trainer's configuration.
        statements: Sentences for the log are appended here.
        first: Read only the first rows of the training split; they are then in memory even for a stream.
        tokenizer: Loads the tokenizer or processor, which is called only if plain text may become turns of a chat template
            (default: that of the recipe's model).
    """
    form: list[str] = []
    kept_thoughts = recipe.effective("thoughts")
    read_as_stored = _reader(recipe)

    def read_split(split: str, training: bool, opened: Source | None) -> data.Loaded:
        loaded = template_variables.as_mappings(read_as_stored(split, training, opened))
        if recipe.get("dataset_name") == EMBEDDED:
            loaded = loaded._replace(dataset=with_columns(loaded.dataset, _columns(recipe)))
        if not recipe.method.trains_scores and not recipe.method.reads_preferences:
            return in_form(recipe, thoughts.without(loaded, kept_thoughts), args, form, tokenizer)
        loaded, said = _with_gold(loaded, recipe)
        loaded = thoughts.without(loaded, kept_thoughts)
        return _with_margins(in_form(recipe, loaded, args, form, tokenizer), recipe, form, said)

    split = recipe.get("dataset_train_split") or "train"
    train = read_split(split, True, None if first is None else source(recipe, first))
    evaluation = None
    if recipe.get("eval_size"):
        train, evaluation = _held_out(train, recipe, args, statements)
    elif args.eval_strategy != "no" or args.eval_on_start:
        evaluation = read_split(recipe.get("dataset_test_split") or "test", False, None)
    limit = recipe.get("max_train_samples")
    train = _as_needed(train, recipe, limit)
    statements += train.report.sentences()
    if limit:
        statements.append(f"Only the first {count(limit, 'rows')} {are(limit)} used (`max_train_samples`).")
        if recipe.method.is_default and isinstance(train.dataset, Dataset):
            data.require_teachable(data.describe(train.dataset))
    if evaluation is not None:
        evaluation = _as_needed(evaluation, recipe, recipe.get("max_eval_samples"))
        if not recipe.get("eval_size"):
            statements += [*evaluation.report.sentences(), *in_common(train.dataset, evaluation.dataset)]
        evaluation = evaluation.dataset
    statements += form
    return Examples(train.dataset, evaluation, train.report, _numbers(train), kept_thoughts)


def source(recipe: Recipe, first: int | None = None) -> Source:
    """The training split as it is stored, with columns renamed by `dataset_columns`; only the `first` rows, if given."""
    given, options = _source(recipe)
    split = recipe.get("dataset_train_split") or "train"
    names = ("config", "revision", "streaming")
    opened = {name: options.get(name) for name in names} | {"streaming": bool(options.get("streaming"))}
    dataset, name = sources.open_source(given, split=split, **opened)
    dataset = renamed(without_format(dataset), options["columns"], name)
    if first is None:
        return Source(dataset, name)
    if isinstance(dataset, Dataset):
        return Source(dataset.select(range(min(first, len(dataset)))), name)
    rows = list(dataset.take(first))
    if not rows:
        raise UserError(f"{name} ({split}) has no rows. Choose another split or file.")
    return Source(Dataset.from_list(rows, features=dataset.features), name)


def _source(recipe: Recipe) -> tuple[Any, dict[str, Any]]:
    """Where a recipe's data is, and how to read it: one dataset, or the mixture of a `datasets:` list."""
    options = {
        "columns": recipe.get("dataset_columns"),
        "format": recipe.get("dataset_format") or "auto",
        "pairing": pairing(recipe),
    }
    if recipe.get("datasets"):
        mixed = open_mixture(
            recipe.get("datasets"),
            streaming=bool(recipe.get("streaming")),
            test_size=recipe.get("test_split_size"),
            seed=recipe.effective("seed"),
        )
        return mixed, options
    options |= {
        "config": recipe.get("dataset_config"),
        "revision": recipe.get("dataset_revision"),
        "streaming": bool(recipe.get("dataset_streaming")),
    }
    if recipe.get("dataset_name") == EMBEDDED:
        return str(demo.DATA), options | {"title": EMBEDDED}
    return recipe.get("dataset_name"), options


def pairing(recipe: Recipe) -> Pairing:
    """Which completions of a row a recipe compares."""
    return Pairing(recipe.effective("dataset_pairs"), recipe.effective("dataset_pair_margin"))


def _reader(recipe: Recipe) -> Callable[[str, bool, Source | None], data.Loaded]:
    """Reads a split as what the recipe trains on: preferences, prompts, or answers to imitate.

    The reader takes the split's name, whether it is to train on, and its rows where they are open already.
    """
    given, options = _source(recipe)

    def read_split(split: str, training: bool, opened: Source | None) -> data.Loaded:
        where, how = given, options
        if opened is not None:  # with its columns under the names known here
            where, how = opened.rows, {"format": options["format"], "title": opened.name}
            how |= {"pairing": options["pairing"]}
        if (reading := WITHOUT_PREFERENCES.get(recipe.method.reads)) is not None:
            return plain_data.load(where, reading, split=split, **{k: v for k, v in how.items() if k != "pairing"})
        return data.load(where, split=split, training=training, **how)

    return read_split


def _columns(recipe: Recipe) -> tuple[str, ...]:
    """The columns that the loss of a recipe reads beside prompts, completions and labels."""
    return recipe.info.columns if recipe.loss is not None and recipe.method.is_default else ()


def _with_gold(loaded: data.Loaded, recipe: Recipe) -> tuple[data.Loaded, list[str]]:
    """Rows with a gold completion only if the loss reads it, and sentences about it."""
    if golds.GOLD in _columns(recipe):
        return golds.required(_paired(loaded, recipe), recipe.title)
    return golds.without(loaded), []


def _with_margins(loaded: data.Loaded, recipe: Recipe, statements: list[str], said: list[str]) -> data.Loaded:
    """Rows with a margin only if it is read; sentences about it and those of `said` are added to the statements."""
    statements.extend(said)
    if recipe.method.trains_scores:
        loaded, said = margins.as_numbers(loaded)
    elif margins.MARGIN in _columns(recipe):
        loaded, said = margins.required(_paired(loaded, recipe), recipe.title)
    else:
        return margins.without(loaded)
    statements.extend(said)
    return loaded


def _numbers(loaded: data.Loaded) -> np.ndarray | None:
    """The row of the source that each row of the dataset comes from."""
    if not isinstance(loaded.dataset, Dataset):
        return None
    return np.arange(len(loaded.dataset)) if loaded.report.kept is None else loaded.report.kept


def _held_out(train: data.Loaded, recipe: Recipe, args: Any, statements: list[str]) -> tuple[data.Loaded, data.Loaded]:
    """Rows to train on and rows to evaluate on."""
    size, (dataset, report) = recipe.get("eval_size"), train
    if not isinstance(dataset, Dataset):
        raise UserError(
            "`eval_size` needs the number of training rows, which is unknown for a stream. Remove `dataset_streaming`, or "
            "evaluate on a separate split (`dataset_test_split`)."
        )
    held_out = math.ceil(size * len(dataset)) if size < 1 else int(size)
    if held_out >= len(dataset):
        rows = count(len(dataset), "rows")
        raise UserError(f"`eval_size` is {size:,}, but the training split has only {rows}. Give a smaller number.")
    split = holdout.hold_out(dataset, held_out, args.seed if args.data_seed is None else args.data_seed)
    if not len(split.held_out):
        raise UserError(
            f"`eval_size` is {size:g}, but nothing can be held out of {report.where}: identical rows stay together, and every "
            "row is repeated more often than that. Give a larger `eval_size`, or remove repeated rows."
        )
    statements.append(f"{report.where}: {_how(split, dataset)}.")
    numbers = _numbers(train)
    return tuple(
        data.Loaded(dataset.select(rows), dataclasses.replace(report, kept=numbers[rows]))
        for rows in (split.train, split.held_out)
    )


def _how(split: holdout.Split, dataset: Dataset) -> str:
    """The end of a sentence about the rows that were held out."""
    rows = f"{count(len(split.held_out), 'rows')} held out for evaluation"
    if split.by_prompt:
        return f"{rows}; their prompts are not in the training data"
    if "prompt" in dataset.column_names:
        return (
            f"{rows}; their prompts occur in the training data too, because there are few prompts or they have images"
        )
    return f"{rows}; they are not in the training data"


def in_common(train: Dataset | IterableDataset, evaluation: Dataset | IterableDataset) -> list[str]:
    """A sentence if evaluation rows occur in the training data; streams are not compared."""
    if not isinstance(train, Dataset) or not isinstance(evaluation, Dataset):
        return []
    found, rows = overlap(train, evaluation), count(len(evaluation), "rows")
    has_same_answers = completions(train) == completions(evaluation)
    parts = [f"{found.rows:,} identical"] if found.rows else []
    other = " and other completions" if has_same_answers else ""
    parts += [f"{found.prompts:,} with the same prompt{other}"] if found.prompts else []
    if not parts:
        return []
    total = found.rows + found.prompts
    return [
        f"{total:,} of {rows} for evaluation {'overlaps' if total == 1 else 'overlap'} with the training data "
        f"({', '.join(parts)}): they measure memorization, not generalization."
    ]


def _as_needed(loaded: data.Loaded, recipe: Recipe, limit: int | None) -> data.Loaded:
    """The first `limit` rows, as pairs for a paired loss; for an unpaired one, pairs are split into single answers."""
    dataset, report = loaded
    if limit is not None and isinstance(dataset, Dataset):
        kept = _numbers(loaded)[:limit]
        loaded = data.Loaded(dataset.select(range(len(kept))), dataclasses.replace(report, kept=kept))
    elif limit is not None:
        loaded = data.Loaded(dataset.take(limit), report)
    if not recipe.method.reads_preferences:
        return loaded
    _paired(loaded, recipe)
    return data.unpair(loaded) if report.paired and not recipe.paired else loaded


def _paired(loaded: data.Loaded, recipe: Recipe) -> data.Loaded:
    """The rows; UserError if they are no pairs, which the recipe needs."""
    if recipe.paired and not loaded.report.paired:
        raise UserError(
            f"{loaded.report.where} holds single completions with a label, but {_what(recipe)} needs pairs. {_instead(recipe)} with "
            "chosen and rejected completions."
        )
    return loaded


def _what(recipe: Recipe) -> str:
    return f"the loss {recipe.title}" if recipe.method.has_loss else recipe.method.title


def _instead(recipe: Recipe) -> str:
    return (
        "Choose a loss for labelled completions (`--loss kto`), or data" if recipe.method.has_loss else "Choose data"
    )
