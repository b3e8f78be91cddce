"""Add the arguments of a verb that reads a recipe: the recipe, and `--key value` for every key it may hold."""

import argparse
from pathlib import Path
from typing import Any

from trl_ext.cli import completion

A_RECIPE = "a YAML file, or a name that `trl-ext recipes` lists"
A_RUN_OR_RECIPE = f"directory of a run, or {A_RECIPE}"
ANY_KEY = "sets any key of the recipe and overrides the file; --key.entry value: sets an entry of a mapping"


def add_recipe(parser: Any, *, is_optional: bool = False) -> argparse._ArgumentGroup:
    """Let a verb take a recipe and its keys.

    Args:
        parser: A `trl_ext.cli.parser.Parser`.
        is_optional: Whether the verb works without a recipe.

    Returns:
        The section of the help on recipe keys, for keys that deserve a line.
    """
    parser.usage = f"%(prog)s {'[RECIPE]' if is_optional else 'RECIPE'} [--key value ...]"
    recipe = parser.add_argument("recipe", metavar="RECIPE", nargs="?", help=A_RECIPE)
    recipe.completer = completion.recipes
    return take_recipe_keys(parser, recipe, is_optional=is_optional)


def add_run_or_recipe(parser: Any, what: str = A_RUN_OR_RECIPE, **options: Any) -> None:
    """Let a verb take a run, or a recipe whose latest run is meant."""
    action = parser.add_argument("run", metavar="RUN|RECIPE", type=Path, help=what, **options)
    action.completer = completion.recipes


def take_recipe_keys(parser: Any, recipe: argparse.Action, *, is_optional: bool = False) -> argparse._ArgumentGroup:
    """The same for a verb with a positional argument of its own that names the recipe."""
    parser.recipe, parser.recipe_is_optional = recipe, is_optional
    return parser.add_argument_group("recipe keys", f"--key value: {ANY_KEY}.")


class Value(argparse.Action):
    """A flag whose value is read as YAML: one word, a list of words, or a mapping that the shell split at its spaces."""

    def __init__(self, option_strings: list[str], dest: str, nargs: str = "+", **options: Any) -> None:
        super().__init__(option_strings, dest, nargs, **options)

    def __call__(self, parser: Any, namespace: Any, values: str | list[str], option_string: Any = None) -> None:
        setattr(namespace, self.dest, read([values] if isinstance(values, str) else values))


class RecipeKey(argparse.Action):
    """`--key value` for a key of a recipe; `--key` alone means true. The last one of the same key counts.

    `--key.entry value` is for an entry of a mapping.
    """

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        options["default"] = argparse.SUPPRESS  # also where `set_defaults` gives the verb a value of its own
        super().__init__(option_strings, dest, nargs="*", **options)

    def __call__(self, parser: Any, namespace: Any, values: list[str], option_string: Any = None) -> None:
        namespace.recipe_keys[self.dest] = read(values) if values else True
        if not values and (missing := missing_value(self.dest)) is not None:
            namespace.problems.append(f"`--{self.dest}` has no value: give {missing}.")


def read(words: list[str]) -> Any:
    """The value that the words after a flag stand for, each read as YAML as in a recipe."""
    if words[0].startswith(("{", "[")):
        return _read_word(" ".join(words))
    values = [_read_word(word) for word in words]
    return values if len(values) > 1 else values[0]


def missing_value(key: str) -> str | None:
    """The kind of value that a key needs; `None` if it means something alone, or is no key of a recipe."""
    from trl_ext import losses
    from trl_ext.methods import METHODS
    from trl_ext.recipe.layers.blocks import BLOCKS, entries
    from trl_ext.recipe.layers.convert import allowed
    from trl_ext.recipe.vocabulary import LOSS_KEYS, known_keys

    if key.partition(".")[0] in BLOCKS and "." in key:
        entry = entries().get(key)
        return None if entry is None or "bool" in entry.kinds else allowed(entry)
    if key in LOSS_KEYS:
        return "one"
    if readers := losses.readers(key):
        kind = losses.describe(readers[0]).kinds[key]
        return None if kind.accepts(True) else kind.phrase
    found = [keys[key] for keys in map(known_keys, METHODS) if keys.get(key) is not None]
    return None if not found or any(field.kinds & {"bool", "Any"} for field in found) else allowed(found[0])


def _read_word(word: str) -> Any:
    import yaml

    from trl_ext.recipe import reader

    try:
        return reader.parse(word)
    except yaml.YAMLError:
        return word
