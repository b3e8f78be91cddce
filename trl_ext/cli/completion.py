"""`trl-ext completion`: print the lines that let a shell complete verbs, recipes, recipe keys, losses and advantages with TAB.

The shell runs `trl-ext` with `_ARGCOMPLETE` set, and `main` then calls `answer`. Nothing heavy is imported for it.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trl_ext.cli.values import one_of
from trl_ext.support.errors import UserError

HELP = "print the script for tab completion"
EXAMPLES = """examples:
  eval "$(trl-ext completion bash)"
  eval "$(trl-ext completion zsh)"
  trl-ext completion fish | source

Put the line into ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish. It needs the package argcomplete: pip install argcomplete.

exit code: 0 on success, 2 on a user error"""

SHELLS = ("bash", "fish", "powershell", "zsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shell = parser.add_argument("shell", metavar="SHELL", type=one_of(*SHELLS), help=", ".join(SHELLS))
    shell.completer = lambda **_: SHELLS


def run(args: argparse.Namespace) -> int:
    print(_argcomplete().shellcode(["trl-ext"], shell=args.shell))
    return 0


def answer(parser: Any, by_verb: dict[str, Any]) -> None:
    """Print what the word at the cursor can become, and end the process.

    Args:
        parser: The parser of `trl-ext`.
        by_verb: Those of its verbs. Every key of a recipe becomes a flag of the verbs that take one.
    """
    argcomplete = _argcomplete()
    for verb in by_verb.values():
        if verb.recipe is not None:
            _add_recipe_keys(verb)
    argcomplete.autocomplete(parser, always_complete_options=False)


def shipped_names(**_: Any) -> list[str]:
    """Names of the recipes that come with trl-ext."""
    from trl_ext.recipe import names

    return list(names.shipped())


def recipes(prefix: str = "", **_: Any) -> list[str]:
    """Names of recipes that come with trl-ext, YAML files, and folders: of runs, or on the way to a file."""
    return [*shipped_names(), *_paths(prefix, lambda path: path.suffix in (".yaml", ".yml"))]


def losses(**_: Any) -> tuple[str, ...]:
    """Names of losses."""
    from trl_ext import losses

    return losses.available()


def advantages(**_: Any) -> tuple[str, ...]:
    """Names of advantages."""
    from trl_ext.rl import advantages

    return advantages.available()


def _paths(prefix: str, is_meant: Any) -> Iterable[str]:
    """Folders, and files that are meant, whose path begins with a prefix."""
    folder, _, beginning = prefix.rpartition("/")
    place = Path(f"{folder}/" if "/" in prefix else ".").expanduser()
    try:
        entries = sorted(place.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(beginning) and (beginning or not entry.name.startswith(".")):
            if entry.is_dir():
                yield f"{prefix[: len(prefix) - len(beginning)]}{entry.name}/"
            elif is_meant(entry):
                yield f"{prefix[: len(prefix) - len(beginning)]}{entry.name}"


def _add_recipe_keys(verb: Any) -> None:
    """Add every key that a recipe may hold as a flag, with a completer where its values are few."""
    from trl_ext.cli.recipe_keys import RecipeKey
    from trl_ext.methods import METHODS, TRAINERS
    from trl_ext.recipe.choice.trl_file import VERBS
    from trl_ext.recipe.layers.blocks import entries
    from trl_ext.recipe.vocabulary import known_keys

    fields = {key: field for kind in METHODS for key, field in known_keys(kind).items()}
    fields |= entries()
    for key, field in sorted(fields.items()):
        flag = f"--{key}"
        action = verb._option_string_actions.get(flag) or verb.add_argument(flag, action=RecipeKey, help="")
        values = {"loss": losses, "advantage": advantages, "trainer": lambda **_: (*VERBS, *TRAINERS)}.get(key)
        if values is not None or (field is not None and _few_values(field)):
            action.completer = values or (lambda field=field, **_: _few_values(field))


def _few_values(field: Any) -> list[str]:
    """The values of a field, if only a few are allowed."""
    return [*(field.choices or ()), *(["true", "false"] if "bool" in field.kinds else [])]


def _argcomplete() -> Any:
    try:
        import argcomplete
    except ImportError:
        raise UserError("Tab completion needs the package argcomplete: `pip install argcomplete`.") from None
    return argcomplete
