"""List the runs of a comparison: every loss with every beta and seed."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_ext import losses
from trl_ext.recipe import Recipe, load
from trl_ext.recipe.command import run_command
from trl_ext.support.errors import UserError


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        name: Name of its directory and in tables: `ipo`, or `ipo-beta0.3-seed1` if betas and seeds vary.
        recipe: The run's recipe.
        command: The command that trains this run alone.
    """

    name: str
    recipe: Recipe
    command: str = ""


def cells(path: str | Path, overrides: dict[str, Any], names: Any, betas: Any = None, seeds: Any = None) -> list[Cell]:
    """The grid of a recipe, in the order of the losses given: loss by loss, beta by beta, seed by seed.

    Args:
        path: The recipe. Each of its `variants` applies to its loss.
        overrides: Recipe keys for every cell.
        names: Losses: a list, or names separated by commas.
        betas: Betas for all losses, in the same form, or a mapping from loss to betas. Default: the recipe's.
        seeds: Seeds, in the same form. Default: the recipe's.

    Raises:
        UserError: The grid or a cell is invalid; lists every problem of every cell.
    """
    chosen = _losses(names)
    by_loss = {_loss("betas", name): given for name, given in (betas if isinstance(betas, dict) else {}).items()}
    if unknown := [name for name in by_loss if name not in chosen]:
        raise UserError(f"`--betas` has betas for {', '.join(unknown)}, but `--losses` has only {', '.join(chosen)}.")
    if not isinstance(betas, dict):
        by_loss = dict.fromkeys(chosen, betas)
    for key in ("loss", "beta", "seed"):
        if key in overrides:
            raise UserError(
                f"`--{key}` sets one {key} for every run, but a comparison varies it. Use `--{_PLURAL[key]}` instead."
            )
    found: dict[str, Cell] = {}
    problems: list[str] = []
    for name in chosen:
        loss_betas, all_seeds = _numbers("betas", by_loss.get(name)), _numbers("seeds", seeds)
        for beta, seed in itertools.product(loss_betas or [None], all_seeds or [None]):
            varied = {key: value for key, value in (("beta", beta), ("seed", seed)) if value is not None}
            label = "-".join([name, *(f"{key}{value:g}" for key, value in varied.items())])
            keys = {**overrides, "loss": name, **varied}
            try:
                recipe = load(path, keys, to_train=True)
            except UserError as error:
                problems += [f"{label}: {problem}" for problem in error.problems]
                continue
            found[label] = Cell(label, recipe, run_command(path, keys))
    if problems:
        raise UserError(list(dict.fromkeys(problems)), about=str(path))
    return list(found.values())


_PLURAL = {"loss": "losses", "beta": "betas", "seed": "seeds"}


def _losses(given: Any) -> list[str]:
    names = split_list(given)
    if not names:
        raise UserError(
            "`--losses` is missing or empty. Give the losses to compare, for example `--losses dpo,ipo,simpo,kto`."
        )
    return list(dict.fromkeys(_loss("losses", name) for name in names))


def _loss(flag: str, name: Any) -> str:
    try:
        return losses.describe(str(name)).name
    except ValueError as error:
        raise UserError(f"`--{flag}`: {error}") from error


def _numbers(name: str, given: Any) -> list[float]:
    values = split_list(given)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or (name == "seeds" and value != int(value)):
            kind = "whole numbers" if name == "seeds" else "numbers"
            raise UserError(f"`--{name}` contains {value!r}. Give {kind}, for example `--{name} 0,1`.")
    return list(dict.fromkeys(values))


def split_list(given: Any) -> list[Any]:
    """A list from a command-line value: a list, a single value, or text with commas."""
    if given is None:
        return []
    if isinstance(given, str):
        given = [_number(word) for word in re.split(r"[,\s]+", given) if word]
    parts = given if isinstance(given, list | tuple) else [given]
    return [part for one in parts for part in (split_list(one) if isinstance(one, str) and "," in one else [one])]


def _number(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word
