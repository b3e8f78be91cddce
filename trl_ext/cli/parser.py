"""Parse the words after a verb with argparse, and turn its complaints into sentences."""

import argparse
import re
import textwrap
from typing import Any, NoReturn

from trl_ext.cli.recipe_keys import RecipeKey, Value
from trl_ext.support import messages
from trl_ext.support.errors import UserError

FLAG = re.compile(r"--(\w[\w-]*(?:\.\w[\w-]*)?)(=.*)?", re.DOTALL)
"""A flag by its name, which has a dot where it is for an entry of a mapping: `--evaluation.judge`."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError` instead of ending the process.

    Attributes:
        recipe: The positional argument that names a recipe; `None` for a verb that takes no recipe keys.
        recipe_is_optional: Whether the verb works without a recipe.
    """

    recipe: argparse.Action | None = None
    recipe_is_optional = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, formatter_class=HelpFormatter)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's own takes -1e-5 for a flag

    def parse(self, words: list[str]) -> argparse.Namespace:
        """The verb's arguments. `recipe_keys` of the result maps each key of the recipe to its value, and `given` has the names of
        all arguments that were given as flags.

        Raises:
            UserError: For a flag with a wrong value, or for all words that belong to no flag and all keys of a recipe
                that lack a value.
        """
        words = [_with_underscores(word) for word in words]
        if self.recipe is not None:
            self._prepare_for_recipe_keys(words)
        given = {
            self._option_string_actions[flag].dest for flag in map(_flag, words) if flag in self._option_string_actions
        }
        args, unknown = self.parse_known_args(words, argparse.Namespace(recipe_keys={}, problems=[], given=given))
        if self._lacks_recipe(args):
            raise UserError(f"The recipe comes first: `{self._with_recipe_first(words)}`.")
        if problems := [*self._about_unknown(unknown), *args.problems]:
            raise UserError(problems, about="the command line")
        return args

    def error(self, message: str) -> NoReturn:
        """Raise a complaint of argparse as a sentence."""
        flag, _, reason = message.removeprefix("argument ").partition(": ")
        if reason.startswith("expected "):
            message = f"`{flag}` has no value: write `{flag} {self._option_string_actions[flag].metavar}`."
        elif reason.startswith("ignored explicit argument "):
            message = f"`{flag}` takes no value."
        elif message.startswith("argument "):
            message = f"`{flag}` {reason}"
        else:
            message = f"{message[0].upper()}{message[1:]}. `{self.prog} --help` shows examples."
        raise UserError(message)

    def _prepare_for_recipe_keys(self, words: list[str]) -> None:
        """Add every flag that is not the verb's own as a key of the recipe."""
        for word in words:
            if (found := FLAG.fullmatch(word)) and f"--{found[1]}" not in self._option_string_actions:
                self.add_argument(f"--{found[1]}", action=RecipeKey)
        if words and words[0].startswith("-"):
            # The recipe is still to come: a list of values would include it.
            for action in self._actions:
                if isinstance(action, Value):
                    action.nargs = None

    def _lacks_recipe(self, args: argparse.Namespace) -> bool:
        is_needed = self.recipe is not None and (args.recipe_keys or not self.recipe_is_optional)
        return bool(is_needed) and not getattr(args, self.recipe.dest)

    def _with_recipe_first(self, words: list[str]) -> str:
        from trl_ext.recipe import names

        recipe = next((word for word in words if word.endswith(names.ENDINGS) or word in names.shipped()), "RECIPE")
        rest = [word for word in words if word not in (recipe, "--recipe", "--config")]
        return " ".join([self.prog, recipe, *rest])

    def _about_unknown(self, words: list[str]) -> list[str]:
        """A sentence about each word that argparse does not know, without the values of unknown flags."""
        is_after_flag, problems = False, []
        for word in words:
            if word.startswith("-") or not is_after_flag:
                problems.append(self._about(word))
            is_after_flag = (is_after_flag and not word.startswith("-")) or bool(re.match(r"--?\w", word))
        return problems

    def _about(self, word: str) -> str:
        if found := FLAG.fullmatch(word):
            near = messages.nearest(f"--{found[1]}", self._option_string_actions)
            hint = f"did you mean `{near[0]}`?" if near else f"`{self.prog} --help` lists all."
            return f"There is no flag `--{found[1]}`: {hint}"
        if re.match(r"-[A-Za-z_]{2}|\w+=.", word):
            return f"A flag begins with two dashes: `--{word.removeprefix('-')}`, not {word!r}."
        example = (
            "write `--key value`, as in `--learning_rate 5e-6`." if self.recipe else f"`{self.prog} --help` lists all."
        )
        return f"{word!r} belongs to no flag: {example}"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps prose at the terminal's width. Indented lines are examples and stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = (line if line.startswith(" ") else textwrap.fill(line, width) for line in text.splitlines())
        return "\n".join(indent + line for line in lines)

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):  # argparse leaves out that verbs are indented further
            self._action_max_length += self._indent_increment

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        """`--loss NAME`, although a list or nothing may follow too."""
        if isinstance(action, (Value, RecipeKey)):
            return action.metavar or ""
        return super()._format_args(action, default_metavar)


def _flag(word: str) -> str | None:
    """The flag of a word, without a value."""
    found = FLAG.fullmatch(word)
    return f"--{found[1]}" if found else None


def _with_underscores(word: str) -> str:
    """`--max-steps=5` as `--max_steps=5`."""
    found = FLAG.fullmatch(word)
    return f"--{found[1].replace('-', '_')}{found[2] or ''}" if found else word
