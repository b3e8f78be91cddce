"""`trl-ext run`: train from a recipe. The work is in `trl_ext.runs.run`, which loads the heavy libraries."""

import argparse
from typing import Any

from trl_ext.cli.recipe_keys import RecipeKey, add_recipe
from trl_ext.cli.values import add_quiet

HELP = "train a model from a recipe"
EXAMPLES = """examples:
  trl-ext run demo
  trl-ext run demo --loss ipo
  trl-ext run demo-ppo
  trl-ext run demo --loss '{dpo: 1, sft: 0.1}' --learning_rate 5e-6
  trl-ext run demo --output_dir runs/a --resume_from_checkpoint true
  accelerate launch --multi_gpu --num_processes 2 -m trl_ext run demo

exit code: 0 on success, 2 on a user error, 130 on Ctrl-C (the state is saved)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    keys = add_recipe(parser)
    add_quiet(parser)
    parser.add_argument("--force", action="store_true", help="run even if the memory plan says it will not fit")
    keys.add_argument(
        "--loss",
        action=RecipeKey,
        metavar="NAME",
        help="loss, or a weighted sum '{NAME: WEIGHT, ...}'; `trl-ext losses` lists them",
    )
    keys.add_argument(
        "--output_dir",
        action=RecipeKey,
        metavar="DIR",
        help="run directory (default: runs/<recipe>-<loss>, with a number if that exists)",
    )
    keys.add_argument(
        "--resume_from_checkpoint",
        action=RecipeKey,
        metavar="true|DIR",
        help="true: resume from the last checkpoint in --output_dir, or in the recipe's latest run if --output_dir is "
        "not given; DIR: resume from this checkpoint",
    )
    keys.add_argument(
        "--resume_changed", action=RecipeKey, help="resume even if settings differ from those of the checkpoint"
    )


def run(args: argparse.Namespace) -> int:
    from trl_ext.runs import run as job
    from trl_ext.runs.signals import guard

    with guard:
        return job.main(args.recipe, args.recipe_keys, args.force, introduce, conclude, abandon, evaluate)


def introduce(console: Any, recipe: Any) -> None:
    """Print which model is trained, and for how long."""
    from trl_ext.cli import summary

    for line in summary.in_brief(recipe):
        console.print(line, markup=False)


def conclude(console: Any, recipe: Any, trained: Any) -> None:
    """Print what the run achieved and what to do next."""
    from trl_ext.evaluation.run_report import report

    report(console, recipe, trained)


def abandon(recipe: Any, directory: Any) -> None:
    """Write the page of a run that ended early."""
    from trl_ext.evaluation.run_page.update import update

    update(directory, recipe)


def evaluate(console: Any, recipe: Any, directory: Any) -> None:
    """Evaluate the run as its recipe says, and print what to do next."""
    from trl_ext.cli import eval
    from trl_ext.evaluation.run_report import suggest

    console.print()
    eval.of_recipe(console, directory)
    suggest(console, recipe, directory)
