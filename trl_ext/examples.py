"""Recipe → the examples its trainer learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from datasets import Dataset
from trl import DatasetMixtureConfig, get_dataset

from trl_ext import data, demo
from trl_ext.data import unlabelled
from trl_ext.errors import UserError
from trl_ext.recipe import Recipe
from trl_ext.recipe.checks import EMBEDDED

READINGS = {"ppo": unlabelled.PROMPTS, "sft": unlabelled.DEMONSTRATIONS}
"""Kinds of training that need no preferences."""


def load(recipe: Recipe, args: Any, statements: list[str]) -> tuple[Any, Any]:
    """Training and evaluation data as the trainer needs them; the latter `None` where no evaluation is asked for.

    Evaluation data held out of the training split is cut off before pairs are split into single answers, so that
    both answers to a prompt stay on one side.
    """
    read = _reader(recipe)
    train = read(recipe.get("dataset_train_split") or "train", True)
    evaluation = None
    if recipe.get("eval_size"):
        seed = args.seed if args.data_seed is None else args.data_seed
        size = recipe.get("eval_size")
        halves = train.dataset.train_test_split(test_size=size if size < 1 else int(size), seed=seed)
        statements.append(f"{train.report.where}: {len(halves['test']):,} rows held out for evaluation.")
        train, evaluation = (data.Loaded(halves[name], train.report) for name in ("train", "test"))
    elif args.eval_strategy != "no":
        evaluation = read(recipe.get("dataset_test_split") or "test", False)
    train = _as_needed(train, recipe, recipe.get("max_train_samples"))
    statements += train.report.sentences()
    if recipe.get("max_train_samples"):
        statements.append(f"Only its first {recipe.get('max_train_samples'):,} rows are used (`max_train_samples`).")
        if recipe.trainer is None and isinstance(train.dataset, Dataset):
            data.require_teachable(data.describe(train.dataset))
    if evaluation is None:
        return train.dataset, None
    evaluation = _as_needed(evaluation, recipe, recipe.get("max_eval_samples"))
    if not recipe.get("eval_size"):
        statements += evaluation.report.sentences()
    return train.dataset, evaluation.dataset


def _reader(recipe: Recipe) -> Callable[[str, bool], data.Loaded]:
    """Reads a split of the recipe's data: one dataset, or the mixture TRL makes of a `datasets:` list."""
    source = str(demo.DATA) if recipe.get("dataset_name") == EMBEDDED else recipe.get("dataset_name")
    options = {
        "columns": recipe.get("dataset_columns"),
        "format": recipe.get("dataset_format") or "auto",
    }
    if recipe.get("datasets"):
        known = {field.name for field in dataclasses.fields(DatasetMixtureConfig)}
        values = {name: value for name, value in recipe.sections()["data"].items() if name in known}
        mixture = get_dataset(DatasetMixtureConfig(**values))
        return _of_kind(recipe, mixture, options)
    options |= {
        "config": recipe.get("dataset_config"),
        "revision": recipe.get("dataset_revision"),
        "streaming": bool(recipe.get("dataset_streaming")),
    }
    return _of_kind(recipe, source, options)


def _of_kind(recipe: Recipe, source: Any, options: dict[str, Any]) -> Callable[[str, bool], data.Loaded]:
    """Reads a split of a source as what the recipe trains on: preferences, prompts, or answers to imitate."""
    if recipe.kind in READINGS:
        return lambda split, training: unlabelled.load(source, READINGS[recipe.kind], split=split, **options)
    return lambda split, training: data.load(source, split=split, training=training, **options)


def _as_needed(loaded: data.Loaded, recipe: Recipe, limit: int | None) -> data.Loaded:
    """The first `limit` rows, as pairs for a paired loss; for an unpaired one, pairs are split into single answers."""
    dataset, report = loaded
    if limit is not None:
        few = isinstance(dataset, Dataset)
        dataset = dataset.select(range(min(limit, len(dataset)))) if few else dataset.take(limit)
        loaded = data.Loaded(dataset, report)
    if recipe.kind in READINGS:
        return loaded
    if recipe.paired and not report.paired:
        raise UserError(
            f"{report.where} holds single answers with a label, and {_what(recipe)} compares pairs: {_instead(recipe)} "
            "with chosen and rejected."
        )
    return data.unpair(loaded) if report.paired and not recipe.paired else loaded


def _what(recipe: Recipe) -> str:
    return f"the loss {recipe.title}" if recipe.trainer is None else "a reward model"


def _instead(recipe: Recipe) -> str:
    return "choose a loss for labelled answers (`--loss kto`), or data" if recipe.trainer is None else "choose data"
