"""Load the reward functions a recipe names, running the user's own code where it is named."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl_ext.checks.reward_names import functions_in, is_local, parse
from trl_ext.support.errors import UserError


def load(name: str) -> Callable[..., Any] | str:
    """Return the function, or the name of the sequence classifier, which TRL loads.

    Raises:
        UserError: The function does not exist, or its module cannot be imported.
    """
    source = parse(name)
    if source.kind == "model":
        return str(Path(name).expanduser()) if is_local(name) else name
    try:
        module = _run(Path(source.place).expanduser()) if source.kind == "file" else _imported(source.place)
        function = getattr(module, source.function or functions_in(Path(source.place).expanduser())[0], None)
    except ImportError as error:
        raise UserError(f"`reward_funcs` names {name}, but importing it failed: {error}.") from error
    if not callable(function):
        raise UserError(f"`reward_funcs` names {name}, but {source.place} has no function {source.function}.")
    return function


def _imported(name: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _run(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
