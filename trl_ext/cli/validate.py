"""`trl-ext validate`: check a recipe and show what it asks for, without weights or data."""

import argparse
from typing import Any

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
    lines = summary(loaded) | _search(args, loaded)
    print(f"{args.recipe} is valid.")
    width = max(map(len, lines))
    for name, text in lines.items():
        print(wrap(f"  {name:<{width}}  {text}", indent=width + 4))
    for note in loaded.notes:
        print(wrap(f"Note: {note}"))
    return 0


def _search(args: argparse.Namespace, loaded: Any) -> dict[str, str]:
    """What `trl-ext search` would vary, if the recipe says so; every end of every range is checked."""
    if loaded.search is None:
        return {}
    from trl_ext.search import space

    overrides = {key: value for key, value in args.recipe_keys.items() if key.partition(".")[0] != "search"}
    made = space.make(args.recipe, overrides, loaded, None)
    return {"search": "; ".join(made.in_words())}
