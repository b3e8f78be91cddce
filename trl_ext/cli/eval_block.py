"""Evaluate a run as its recipe says (`evaluation`), with flags in place of some entries."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl_ext.checks import evaluation_parts
from trl_ext.checks.evaluation_parts import DATA, JUDGE, OF_JUDGES, READS, TASKS
from trl_ext.support.errors import UserError

Part = Callable[[argparse.Namespace], int]
"""Evaluates one part: a judge, tasks, or held-out preferences."""

KEYS = {key for keys in READS.values() for key in keys}
"""The flags that are entries of `evaluation` too."""


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that leaves the recipe's `evaluation` out."""
    parser.add_argument(
        "--no_recipe",
        action="store_true",
        help="evaluate as the flags say, and not as `evaluation` of the run's recipe says",
    )


def run(args: argparse.Namespace, evaluate: Part, default: Callable[[str], Any], tell: Callable[[str], None]) -> int:
    """Evaluate all parts that the recipe of the run and the flags name; without a recipe's `evaluation`, as the flags say.

    Args:
        args: Of the command line. `given` has the names of its flags.
        evaluate: Evaluates one part.
        default: The default of a flag.
        tell: Prints a statement.

    Raises:
        UserError: A setting cannot work; or whatever a part raises.
    """
    block = {} if args.no_recipe else entries_of(args.run)
    if not block:
        return evaluate(args)
    values = settle(block, {key: getattr(args, key) for key in args.given & KEYS})
    if problems := [*evaluation_parts.problems(values, lambda key: _where(key, args))]:
        raise UserError(problems, next_step="`--no_recipe` leaves out what the recipe says." if not args.given else "")
    tell(f"As `evaluation` in the recipe of the run says: {evaluation_parts.in_words(values)}.")
    parts = evaluation_parts.parts(values)
    if len(parts) > 1 and (flag := next((flag for flag in ("output", "json") if getattr(args, flag)), None)):
        raise UserError(
            f"`--{flag}` is for one record, and the recipe's evaluation has two. Choose one with `--judge` or `--tasks`."
        )
    for part in parts:
        evaluate(_of_part(args, evaluation_parts.settings_of(part, values), default))
    if values == block:
        _note_complete(args.run, block)
    return 0


def _note_complete(given: Path, block: dict[str, Any]) -> None:
    """Record that the run was evaluated as its recipe says. One of its checkpoints is not the run."""
    from trl_ext.runs import finished, pending

    directory = finished.directory_of(given)
    if (directory / finished.RECIPE).exists():
        pending.note_complete(directory, block)


def entries_of(given: Path) -> dict[str, Any]:
    """The entries of `evaluation` in the recipe of a run; none for a model without a run.

    Raises:
        UserError: There is no such run, or an entry does not exist or has a wrong type.
    """
    from trl_ext.recipe import reader
    from trl_ext.recipe.layers.blocks import EVALUATION
    from trl_ext.recipe.layers.evaluation import read_evaluation
    from trl_ext.recipe.layers.layer import Layer, from_file
    from trl_ext.recipe.problems import Problems
    from trl_ext.runs import finished

    directory = finished.directory_of(given)
    path = next((path for home in (directory, directory.parent) if (path := home / finished.RECIPE).exists()), None)
    if path is None:
        return {}
    document, problems = reader.read(path), Problems(path)
    layer = Layer(from_file({EVALUATION: document.values.get(EVALUATION)}, document.lines))
    read_evaluation(layer, document.lines, problems)
    problems.raise_if_any()
    found = layer.settings.get(EVALUATION)
    return {} if found is None else found.value


def settle(block: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """The settings of an evaluation: flags in place of entries of the block.

    `--judge` and `--tasks` choose what is evaluated, and the rest of the block is left out. A judge comes with its own settings, and
    prompts with theirs: another one does not keep those of the block.
    """
    chosen = [part for part in (JUDGE, TASKS) if part in flags]
    dropped = {key for part in (JUDGE, TASKS) if chosen and part not in chosen for key in (part,)}
    if JUDGE in flags and flags[JUDGE] != evaluation_parts.judges(block):
        dropped |= {*OF_JUDGES}
    if {"prompts", "dataset"} & flags.keys():
        dropped |= {"prompts", *DATA}
    kept = {key: value for key, value in block.items() if key not in dropped}
    if chosen:
        read = {key for part in chosen for key in READS[part]}
        kept = {key: value for key, value in kept.items() if key in read}
    return kept | flags


def _where(key: str, args: argparse.Namespace) -> str:
    return f"`--{key}`" if key in args.given else f"`evaluation.{key}` in the recipe of {args.run}"


def _of_part(args: argparse.Namespace, values: dict[str, Any], default: Callable[[str], Any]) -> argparse.Namespace:
    """The arguments of a command that evaluates this part alone."""
    values = {key: value for key, value in values.items() if value is not None}
    if JUDGE in values:
        values[JUDGE] = evaluation_parts.judges(values)
    settings = {key: values.get(key, default(key)) for key in KEYS if hasattr(args, key)}
    return argparse.Namespace(**{**vars(args), **settings})
