"""`trl-ext recipes`: list the recipes that come with trl-ext, or print one."""

import argparse
from typing import Any

from trl_ext.cli.completion import shipped_names
from trl_ext.support import encoding, messages, terminal
from trl_ext.support.errors import UserError

HELP = "list the recipes that come with trl-ext, or print one"
EXAMPLES = """examples:
  trl-ext recipes
  trl-ext run demo
  trl-ext recipes qwen3-8b-kto > my.yaml
  trl-ext recipes --json

Every verb that takes a recipe takes one of these names. A local file of that name (NAME or NAME.yaml) wins.

exit code: 0 on success, 2 on a user error"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    name = parser.add_argument("name", metavar="NAME", nargs="?", help="print the file of this recipe")
    name.completer = shipped_names
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from trl_ext.recipe import names, shipped

    if args.name is not None:
        files = names.shipped()
        if args.name not in files:
            raise UserError(f"No recipe {args.name!r} comes with trl-ext: {messages.one_of(args.name, list(files))}")
        described, text = shipped.describe(files[args.name]), files[args.name].read_text(encoding="utf-8")
        print(
            encoding.as_json(_facts(described) | {"text": text}, indent=2) if args.json else text,
            end="\n" * args.json,
        )
        return 0
    every = shipped.every()
    if args.json:
        print(encoding.as_json([_facts(recipe) for recipe in every], indent=2))
        return 0
    console = terminal.console(markup=False)
    console.print(_table(every))
    console.print(
        "Train one with `trl-ext run NAME`. `trl-ext recipes NAME` prints its file, with the sources of its values. "
        "`trl-ext init MODEL DATA` writes a recipe for your own model and data.",
        style="dim",
    )
    return 0


def _facts(recipe: Any) -> dict[str, Any]:
    return recipe._asdict() | {"path": str(recipe.path), "is_measured": recipe.is_measured}


def _table(recipes: list[Any]) -> Any:
    table = terminal.plain_table()
    table.add_column("recipe", style="bold", no_wrap=True)
    for heading in ("model", "trains", "card", "measured peak and time"):
        table.add_column(heading)
    for recipe in recipes:
        table.add_row(
            recipe.name,
            recipe.model_name,
            recipe.trains,
            recipe.hardware,
            recipe.measured,
            style=None if recipe.is_measured else "dim",
        )
    return table
