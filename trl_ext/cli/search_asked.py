"""What the command line of `trl-ext search` asks for: the recipe with its `search`, the space, and the limits."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_ext.support.errors import UserError

FLAGS = ("measure", "max_kl", "samples", "limit", "max_new_tokens", "dataset", "split", "pruner")
"""Flags that are entries of `search`."""


@dataclass(frozen=True)
class Asked:
    """What is searched.

    Attributes:
        recipe: As it is without the search.
        space: What is varied.
        flags: The entries of `search`, those of flags included.
        compares: Whether the measure is a judge that reads answers.
        hours: Length of the search; `None` if only the trials are counted.
        trials: Number of trials; `None` for no limit.
        storage: URL of the trials' database; `None` for a file in the directory.
        notes: Sentences for the user.
    """

    recipe: Any
    space: Any
    flags: dict[str, Any]
    compares: bool
    hours: float | None
    trials: int | None
    storage: str | None
    notes: list[str]


def read(args: argparse.Namespace) -> Asked:
    """Read the recipe and check everything that can be known before weights are loaded.

    Raises:
        UserError: Something cannot work; lists every problem that was found.
    """
    from trl_ext.checks import judge_source
    from trl_ext.checks.search_block import ACCURACY
    from trl_ext.model_files import adapter, model
    from trl_ext.recipe import load
    from trl_ext.search import space

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "`trl-ext search` trains each trial in one process. Start it without a launcher; start it several times to use several cards."
        )
    flags = {f"search.{key}": value for key in FLAGS if (value := getattr(args, key)) is not None}
    keys = {**args.recipe_keys, **flags}
    with_search = load(args.recipe, keys, to_train=True)
    entries = with_search.search or {}
    recipe = load(
        args.recipe,
        {**{k: v for k, v in args.recipe_keys.items() if not _is_of_search(k)}, **space.OFF},
        to_train=True,
    )
    if problem := model.problem(recipe.get("model_name_or_path")):
        raise UserError(problem, about=args.recipe)
    _require_fit(recipe, adapter.is_in(Path(str(recipe.get("model_name_or_path"))).expanduser()))
    hours, trials = args.hours or entries.get("hours"), args.trials or entries.get("trials")
    if hours is None and trials is None:
        raise UserError("The search has no end: give `--hours H` or `--trials N`.")
    overrides = {key: value for key, value in args.recipe_keys.items() if not _is_of_search(key)}
    args.recipe_keys = overrides
    made = space.make(args.recipe, overrides, with_search, _names(args.losses))
    source = entries.get("measure") or ACCURACY
    compares = source != ACCURACY and judge_source.parse(source).kind in ("api", "model", "hub")
    notes = list(recipe.notes)
    if with_search.evaluation is not None:
        notes.append(
            "The recipe's `evaluation` is not carried out for trials. `trl-ext run` of the result carries it out."
        )
    if recipe.get("push_to_hub"):
        notes.append("`push_to_hub`: trials are not uploaded. `trl-ext run` of the result uploads it.")
    return Asked(recipe, made, entries, compares, hours, trials, args.storage, notes)


def _require_fit(recipe: Any, continues: bool) -> None:
    """Refuse recipes whose trials could not share a base or be measured against it.

    Raises:
        UserError: Says what has to change.
    """
    if not recipe.method.is_default:
        raise UserError(
            f"`trl-ext search` varies the training of a preference loss on data, and the recipe has `trainer: {recipe.method.name}`. Give "
            "another recipe."
        )
    if not recipe.get("use_peft"):
        raise UserError(
            "`trl-ext search` needs an adapter, with whose base its trials are compared. Set `use_peft: true`."
        )
    if continues:
        raise UserError(
            f"`model_name_or_path` is {recipe.get('model_name_or_path')}, an adapter. The trials of a search begin at a base and have "
            "adapters of their own. Name a base, or merge the adapter first with `trl-ext merge`."
        )


def _is_of_search(key: str) -> bool:
    return key == "search" or key.startswith("search.")


def _names(given: Any) -> list[str] | None:
    """The losses of `--losses`: a list, or names separated by commas."""
    from trl_ext.comparison.grid import split_list

    return [str(name) for name in split_list(given)] or None
