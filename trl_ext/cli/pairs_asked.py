"""The recipe, flags and output that `trl-ext pairs` is given, checked before anything is loaded."""

import argparse
import os
from pathlib import Path
from typing import Any

from trl_ext.cli import pairs_flags
from trl_ext.cli.recipe_keys import read
from trl_ext.cli.values import writable_folder
from trl_ext.support.errors import UserError

OF_RECIPE = ("reward_funcs", "reward_adapter", "reward_weights")
"""Flags whose default is the recipe's setting."""


def recipe_of(args: argparse.Namespace) -> Any:
    """The recipe, with the model that is sampled from as its model."""
    from trl_ext import recipe
    from trl_ext.runs import finished

    place = Path(args.recipe).expanduser()
    if place.is_dir():
        if unread := [f"--{key}" for key in args.recipe_keys] + ["--adapter"] * bool(args.adapter):
            raise UserError(f"`{unread[0]}` needs a recipe, and {place} is a folder. Remove it, or give the recipe.")
        if args.rounds is not None:
            raise UserError(
                f"`--rounds` trains a recipe, and {place} is a run. Give the recipe, and `--adapter {place}` to start from it."
            )
        finished.check(place)
        return finished.recipe_at(place, needs_data=args.prompts is None)
    keys = dict(args.recipe_keys)
    if args.dataset_columns is not None and args.prompts is None:  # of the recipe's own data
        keys["dataset_columns"] = args.dataset_columns
    if args.rounds is not None and args.seed is not None:
        keys["seed"] = args.seed
    loaded = recipe.load(args.recipe, keys, to_train=args.rounds is not None)
    if args.adapter is None:
        return loaded
    _require_same_base(args.adapter, loaded)
    return recipe.load(
        args.recipe,
        keys | {"model_name_or_path": str(Path(args.adapter).expanduser().resolve())},
        to_train=args.rounds is not None,
    )


def _require_same_base(given: str, recipe: Any) -> None:
    from trl_ext.model_files import adapter

    folder = Path(given).expanduser()
    if not adapter.is_in(folder):
        raise UserError(
            f"`--adapter` is {given}, which holds no adapter ({adapter.CONFIG}). Give the directory of a finished run, or one of its "
            "checkpoints."
        )
    own, its = adapter.base_name(recipe.get("model_name_or_path")), adapter.base_of(folder)
    if its is not None and Path(its).expanduser().resolve() != Path(own).expanduser().resolve():
        raise UserError(
            f"`--adapter` is {given}, which was trained on {its}, and the recipe's model is {own}. Give a run of this model."
        )


def check(args: argparse.Namespace, recipe: Any) -> None:
    """Refuse flags that cannot work, before anything is loaded.

    Raises:
        UserError: Names the flags.
    """
    from trl_ext.checks import pairing
    from trl_ext.model_files import adapter

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("`trl-ext pairs` runs in one process. Start it without a launcher.")
    if recipe.method.trains_scores:
        raise UserError(
            "The recipe trains a reward model, which writes no completions. Give a recipe that trains a policy."
        )
    if not isinstance(args.dataset_columns, dict | None):
        raise UserError(
            f"`--dataset_columns` is {args.dataset_columns!r}. Write a mapping: '{{prompt: question, ...}}'."
        )
    if not args.judge and not args.reward_funcs and not args.reward_adapter:
        for name in OF_RECIPE:
            setattr(args, name, recipe.get(name) if getattr(args, name) is None else getattr(args, name))
    args.reward_funcs, args.reward_weights = _listed(args.reward_funcs), _listed(args.reward_weights)
    if args.num_generations is None:
        own = recipe.get("num_generations") or 0
        args.num_generations = own if own > 1 else pairs_flags.COMPLETIONS
    found = [
        *pairing.problems(vars(args), adapter.base_name(recipe.get("model_name_or_path"))),
        *pairing.problems_of_rounds(vars(args), recipe.method, recipe.values),
    ]
    if found:
        raise UserError(found, about="the command line" if len(found) > 1 else "")


def _listed(given: Any) -> list[Any] | None:
    """Several values of a flag: `a b` or `a,b`, each read as YAML."""
    if given is None or isinstance(given, list):
        return given
    return [read([part]) for part in given.split(",")] if isinstance(given, str) else [given]


def output_of(args: argparse.Namespace, recipe: Any) -> Any:
    """Where the data, or the rounds, are written."""
    from trl_ext.pairing.output import Output

    name = recipe.name if not Path(args.recipe).is_dir() else Path(args.recipe).resolve().name
    default = Path("runs", f"{name}-{'pairs' if args.rounds is None else 'rounds'}")
    given = default if args.output is None else Path(args.output).expanduser()
    if args.rounds is not None:
        if given.suffix == ".jsonl" or given.is_file():
            raise UserError(f"`--output` is {given}. Rounds have a folder: name one.")
        return writable_folder("output", given)
    output = Output.at(given)
    writable_folder("output", output.data.parent)
    output.refuse_foreign()
    return output
