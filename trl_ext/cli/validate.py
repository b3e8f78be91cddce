"""`trl-ext validate`: check a recipe and show what it asks for, without weights or data."""

import argparse

from trl_ext.cli.recipe_keys import add_recipe
from trl_ext.support.errors import UserError
from trl_ext.support.terminal import wrap

HELP = "check a recipe without loading weights or data"
EXAMPLES = """examples:
  trl-ext validate demo
  trl-ext validate demo --loss kto --learning_rate 5e-6

exit code: 0 if the recipe is valid, 2 with a list of all problems if not"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)


def run(args: argparse.Namespace) -> int:
    from trl_ext import recipe
    from trl_ext.cli.summary import summary
    from trl_ext.model_files import model

    loaded = recipe.load(args.recipe, args.recipe_keys, to_train=True)
    if problem := model.problem(loaded.get("model_name_or_path")):
        raise UserError(problem, about=args.recipe)
    print(f"{args.recipe} is valid.")
    lines = summary(loaded)
    width = max(map(len, lines))
    for name, text in lines.items():
        print(wrap(f"  {name:<{width}}  {text}", indent=width + 4))
    for note in loaded.notes:
        print(wrap(f"Note: {note}"))
    return 0
