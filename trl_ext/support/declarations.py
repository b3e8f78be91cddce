"""Read the declaration of a function from the syntax tree of its file, without importing it.

A file `<name>.py` with a function `<name>` declares it: the signature names what it reads, and constants on lines of their
own say what the signature cannot.
"""

import ast
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_ext.support.kinds import Kind, kind_of


@dataclass(frozen=True)
class Declaration:
    """What a file declares.

    Attributes:
        name: Of the function, and of the file.
        positional: Parameters before the `*`, with the default of those that have one.
        keyword: Parameters after it, with their defaults.
        constants: Literals bound to names in capitals.
        summary: First line of the file's docstring.
        functions: Names of all functions of the file.
    """

    name: str
    positional: dict[ast.arg, ast.expr | None]
    keyword: dict[ast.arg, ast.expr | None]
    constants: dict[str, Any]
    summary: str
    functions: frozenset[str]

    def require(self, *constants: str) -> None:
        """ValueError if one of these constants is missing or empty."""
        if absent := [key for key in constants if not self.constants.get(key)]:
            raise ValueError(f"it must define {', '.join(absent)} as literals, each on a line of its own.")


def read(path: Path) -> Declaration:
    """Read the declaration of the function that has the file's name. ValueError or SyntaxError without one."""
    name, tree = path.stem, ast.parse(path.read_text(encoding="utf-8"))
    function = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
    if function is None:
        raise ValueError(f"it must define a function named {name!r}.")
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    without = len(positional) - len(arguments.defaults)
    return Declaration(
        name=name,
        positional=dict(zip(positional, [None] * without + arguments.defaults, strict=True)),
        keyword=dict(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)),
        constants=_constants(tree),
        summary=(ast.get_docstring(tree) or "").split("\n", 1)[0],
        functions=frozenset(n.name for n in tree.body if isinstance(n, ast.FunctionDef)),
    )


def hyperparameters(
    parameters: Mapping[ast.arg, ast.expr | None], kinds: Mapping[str, Kind]
) -> tuple[dict[str, Any], dict[str, Kind]]:
    """Defaults and kinds of parameters by name. ValueError for one without a default or with an unsupported annotation."""
    if missing := [argument.arg for argument, default in parameters.items() if default is None]:
        raise ValueError(f"{', '.join(missing)} must have a default, like every hyperparameter.")
    defaults = {argument.arg: ast.literal_eval(default) for argument, default in parameters.items()}
    return defaults, {argument.arg: kind_of(argument.annotation, kinds) for argument in parameters}


def files(folders: Iterable[str]) -> dict[str, Path]:
    """The files of a package that declare a function, by name: those whose names do not start with an underscore.

    Args:
        folders: The package's `__path__`, so that it can be extended by other folders.
    """
    # Reversed, so that the first folder has precedence, as when the module is imported.
    return {path.stem: path for folder in reversed(list(folders)) for path in Path(folder).glob("[!_]*.py")}


def _constants(tree: ast.Module) -> dict[str, Any]:
    constants = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name.isupper() and name[0] != "_":
                constants[name] = ast.literal_eval(value)
    return constants


def unread(name: str, hyperparameters: Iterable[str], given: str, readers: Iterable[str]) -> str:
    """One sentence: `name` does not read the hyperparameter `given`, what it reads, and what `given` may be meant for."""
    reads = sorted(hyperparameters)
    sentence = f"{name} does not read {given!r}; it reads {', '.join(reads) or 'no hyperparameters'}."
    if near := difflib.get_close_matches(given, reads, n=1):
        return f"{sentence} Did you mean {near[0]!r}?"
    others = ", ".join(readers)
    return f"{sentence} {given!r} belongs to {others}." if others else sentence
