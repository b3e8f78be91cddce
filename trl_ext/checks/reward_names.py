"""Read names in `reward_funcs`: a known function, the user's own code, or a reward model.

Nothing is imported or run here; `trl_ext.build.rewards` loads the source that a name stands for.
"""

import ast
import re
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from trl_ext.support import messages

KNOWN = {
    "sentiment": "trl_ext.demo.rewards:sentiment",
    "accuracy_reward": "trl.rewards:accuracy_reward",
    "reasoning_accuracy_reward": "trl.rewards:reasoning_accuracy_reward",
    "think_format_reward": "trl.rewards:think_format_reward",
    "get_soft_overlong_punishment": "trl_ext.trainers.rollout.known_rewards:soft_overlong_punishment",
}
"""The demo's known reward, and TRL's functions by the names its own scripts give them."""

READS = "completions"
"""The argument by which a reward function is distinguished from the other functions of a file."""

NEEDS_MATH_VERIFY = ("accuracy_reward", "reasoning_accuracy_reward")
"""Those that compare mathematical answers by a package of its own."""

COLUMNS_OF_KNOWN = dict.fromkeys(NEEDS_MATH_VERIFY, ("solution",))
"""Columns that a function of `KNOWN` cannot do without."""

NOT_PASSED = {"prompt", "completion", "completion_ids"}
"""Columns that TRL does not give a reward function."""

PASSED = {"prompts", READS, "completion_ids", "trainer_state", "log_extra", "log_metric"}
"""What TRL gives a reward function by name, besides the data's columns."""


class Source(NamedTuple):
    """The parts of a name. `kind` is `known`, `file`, `module`, `model`, or `nothing` if it is none of them."""

    kind: str
    place: str
    function: str | None = None


def parse(name: str) -> Source:
    """Split a name of `reward_funcs` into its parts."""
    if name in KNOWN:
        return Source("known", *KNOWN[name].split(":"))
    if found := re.fullmatch(r"(.+\.py)(?::(\w+))?", name):
        return Source("file", found[1], found[2])
    if "/" in name or Path(name).is_dir():
        return Source("model", name)
    if found := re.fullmatch(r"(\w+(?:\.\w+)*)[:.](\w+)", name):
        return Source("module", found[1], found[2])
    return Source("nothing", name)


def problem(name: str) -> str | None:
    """The end of a sentence about a source that cannot work; `None` if it may. Runs and imports nothing."""
    source = parse(name)
    if source.kind == "nothing":
        return (
            f"which is not a reward function: {messages.one_of(name, tuple(KNOWN))} Name your own function as "
            "`module:function` or `file.py:function`, and a sequence classifier by its folder or as org/name."
        )
    path = Path(source.place).expanduser()
    if source.kind == "file":
        return _problem_of_file(path, source.function)
    if (
        source.kind == "module"
        and PathFinder.find_spec(source.place.split(".")[0], [str(Path.cwd()), *sys.path]) is None
    ):
        return f"and no module {source.place.split('.')[0]} was found in this folder or among the installed packages: check its name."
    if source.kind == "model" and is_local(source.place) and not (path / "config.json").exists():
        return "which is not a folder with a config.json: name the folder of a sequence classifier with one output."
    return None


def columns_read(name: str) -> tuple[str, ...]:
    """The columns that the function of a source cannot do without, as far as its signature says so without running it."""
    source = parse(name)
    if source.kind == "known":
        return COLUMNS_OF_KNOWN.get(source.function, ())
    if source.kind != "file":
        return ()
    path = Path(source.place).expanduser()
    definition = _definition(path, source.function or functions_in(path)[0])
    if definition is None or definition.decorator_list:
        return ()
    arguments = definition.args
    positional = [*arguments.posonlyargs, *arguments.args]
    needed = positional[: len(positional) - len(arguments.defaults)]
    needed += [
        each for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None
    ]
    return tuple(each.arg for each in needed if each.arg not in PASSED)


def without_column(function: str, column: str, columns: Iterable[str], data: str) -> str:
    """A sentence about a reward function that reads a column which the data does not have.

    Args:
        function: What to call the function.
        column: A parameter without a default.
        columns: Those of the data.
        data: What to call the data.
    """
    given = sorted({*columns} - NOT_PASSED)
    near = messages.nearest(column, [*given, *sorted(PASSED)])
    meant = f"Did you mean {messages.joined([f'`{each}`' for each in near], 'or')}? " if near else ""
    has = f"besides the prompt it has {messages.joined(given)}" if given else "it has nothing but the prompt"
    return (
        f"{function} reads `{column}`, and {data} has no such column: {has}. {meant}Name the column with `dataset_columns: "
        f"{{{column}: <its column>}}`, or give the parameter a default."
    )


def needs_math_verify(name: str) -> bool:
    """Whether a source is one of TRL's functions that compare mathematical answers."""
    source = parse(name)
    return source.function in NEEDS_MATH_VERIFY and source.place.partition(".")[0] == "trl"


def is_users_code(name: str) -> bool:
    """Whether loading it runs code that does not come with trl-ext or TRL."""
    return parse(name).kind in ("file", "module")


def statement(name: str) -> str:
    """A sentence for the log that describes a source; for the user's own code it says that the code runs."""
    source = parse(name)
    if source.kind == "known":
        return f"Reward: {name} ({source.place}.{source.function})."
    if source.kind == "model":
        return f"Reward: {name}, a sequence classifier, loaded in addition to the base model."
    function = source.function or (functions_in(Path(source.place).expanduser()) or [""])[0]
    return f"Reward: {function} in {source.place}. This runs the code of that file or module."


def absolute(name: str) -> str:
    """The same source, named so that it is found from another directory."""
    source = parse(name)
    path = Path(source.place).expanduser()
    if source.kind not in ("file", "model") or not path.exists():
        return name
    return f"{path.resolve()}:{source.function}" if source.function else str(path.resolve())


def _problem_of_file(path: Path, function: str | None) -> str | None:
    if not path.is_file():
        return "and that file does not exist: check the path."
    try:
        found = functions_in(path)
    except (SyntaxError, ValueError) as error:
        return f"which is not Python: {error}."
    if function is None and len(found) != 1:
        if not found:
            return f"which has no function with an argument `{READS}`: name one with `{path.name}:function`."
        return f"which has several functions ({', '.join(found)}): choose one with `{path.name}:function`."
    definition = _definition(path, function or found[0])
    if definition is not None and not definition.decorator_list and (missing := PASSED - _names(definition)):
        return (
            f"where {definition.name} does not accept {', '.join(sorted(missing))}. A reward function is called with these "
            "arguments and with the columns of the data: add **kwargs to its signature."
        )
    return None


def functions_in(path: Path) -> list[str]:
    """The public functions of a file that take completions, read from its source."""
    found = [node for node in _definitions(path) if not node.name.startswith("_")]
    return [node.name for node in found if READS in {arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)}]


def _definition(path: Path, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    return next((node for node in _definitions(path) if node.name == name), None)


def _definitions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _names(definition: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The arguments of `PASSED` that a function accepts by name; all of them with **kwargs."""
    arguments = definition.args
    return PASSED if arguments.kwarg else {argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)}


def is_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or Path(name).is_dir() or name.count("/") > 1
