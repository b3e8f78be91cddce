"""Words of a command line: the recipe, and `--any_key value` for every key a recipe may hold."""

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from trl_ext.methods import METHODS
from trl_ext.recipe import reader
from trl_ext.recipe.paths import in_full, unwritable
from trl_ext.support import messages
from trl_ext.support.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError` instead of ending the process.

    Attributes:
        takes_recipe: Whether the first word must be a recipe.
    """

    takes_recipe = False

    def __init__(self, **options: Any) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(**options, allow_abbrev=False, formatter_class=layout)

    def parse_args(self, words: list[str]) -> argparse.Namespace:
        if self.takes_recipe and (not words or words[0].startswith("-")):
            recipe = next((word for word in words if word.endswith((".yaml", ".yml"))), "RECIPE")
            rest = [word for word in words if word not in (recipe, "--recipe", "--config")]
            raise UserError(f"The recipe comes first: `{' '.join([self.prog, recipe, *rest])}`.")
        return super().parse_args(words)

    def error(self, message: str) -> NoReturn:
        if found := re.fullmatch(r"argument (\S+): invalid (int|float) value: (.*)", message):
            raise UserError(f"`{found[1]}` is {found[3]}: give a {'whole ' * (found[2] == 'int')}number.")
        raise UserError(f"{message}. `{self.prog} --help` shows how it is used.")


def add_recipe(parser: Parser) -> None:
    """The arguments of a verb that reads a recipe."""
    parser.takes_recipe = True
    parser.usage = "%(prog)s RECIPE [--key value ...]"
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file")
    parser.add_argument(
        "overrides",
        metavar="--key value",
        nargs=argparse.REMAINDER,
        help="any key of a recipe, `--loss ipo` for instance; wins over the file",
    )


def help_wanted(words: list[str]) -> bool:
    """Whether help is asked for anywhere among the words after a verb."""
    return "-h" in words or "--help" in words


def overrides(words: list[str]) -> dict[str, Any]:
    """Values by key from `--key value`, `--key=value`, `--key` alone (true) and `--key a b` (a list).

    Values are read as YAML, as in a recipe. Of a key given twice the last one counts.

    Raises:
        UserError: For every word that belongs to no flag, and every key without the value it needs.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not re.match(r"--\w", word):
            problems.append(_no_flag(word))
            while re.match(r"-\w", word) and position < len(words) and not _is_flag(words[position]):
                position += 1
            continue
        name, has_value, text = word[2:].partition("=")
        given = [text] if has_value else []
        while not has_value and position < len(words) and not _is_flag(words[position]):
            given.append(words[position])
            position += 1
        if given and given[0].startswith(("{", "[")):
            given = [" ".join(given)]  # a mapping or list the shell took apart at its spaces
        name = name.replace("-", "_")
        if not given and (missing := _missing(name)) is not None:
            problems.append(f"`--{name}` has no value: give {missing}.")
        read = [_value(text) for text in given]
        values[name] = True if not read else read[0] if len(read) == 1 else read
    if problems:
        raise UserError(problems, about="the command line")
    return values


def own(args: argparse.Namespace, values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A verb's own flags, by name: what follows the recipe is read as its keys, so they are taken out of `values`.

    Args:
        args: Where they are if they came before the recipe.
        values: Of `overrides`.
        defaults: Of the flags.
    """
    return {name: values.pop(name, getattr(args, name, None) or default) for name, default in defaults.items()}


def writable_folder(flag: str, given: Any) -> Path:
    """The folder that a flag names for what will be written, judged before the work whose result would be lost.

    Raises:
        UserError: It is no name, or cannot be made or written to.
    """
    if isinstance(given, (bool, list, dict)):
        raise UserError(f"`--{flag}` is {messages.shown(given)}: name a folder.")
    try:
        folder = Path(in_full(str(given)))
    except ValueError as error:
        raise UserError(f"`--{flag}` {error}") from error
    if (problem := unwritable(folder)) is not None:
        raise UserError(f"`--{flag}` is {given}, and {problem}")
    return folder


def plain(value: Any) -> str:
    """A value as a recipe writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def did_you_mean(verb: str, rest: list[str], verbs: tuple[str, ...]) -> str:
    """A sentence about a first word that is no verb."""
    if verb.endswith((".yaml", ".yml")):
        return f"Say what to do with {verb}: `trl-ext run {' '.join([verb, *rest])}`, for instance."
    if verb.startswith("-"):
        return f"{verb} comes too early: a verb goes first, then the recipe, then the flags."
    return f"There is no verb {verb!r}: {messages.one_of(verb, verbs)}"


def _missing(key: str) -> str | None:
    """What a key that was given alone lacks; `None` if alone it means something, or it is no key of a recipe."""
    from trl_ext import losses
    from trl_ext.recipe.convert import allowed
    from trl_ext.recipe.vocabulary import LOSS_KEYS, known_keys

    if key in LOSS_KEYS:
        return "one"
    if readers := losses.readers(key):
        kind = losses.describe(readers[0]).kinds[key]
        return None if kind.accepts(True) else kind.phrase
    found = [keys[key] for keys in map(known_keys, METHODS) if keys.get(key) is not None]
    return None if not found or any(field.kinds & {"bool", "Any"} for field in found) else allowed(found[0])


def _no_flag(word: str) -> str:
    """A sentence about a word that is no flag and follows none."""
    if re.match(r"-[A-Za-z_]{2}", word):
        return f"A flag begins with two dashes: `-{word}`, not {word!r}."
    if re.match(r"\w+=.", word):
        return f"A flag begins with two dashes: `--{word}`, not {word!r}."
    return f"{word!r} belongs to no flag: write `--key value`, as in `--learning_rate 5e-6`."


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not re.match(r"-\.?\d", word) and word != "-"


def _value(text: str) -> Any:
    try:
        return reader.parse(text)
    except yaml.YAMLError:
        return text
