"""Find out which settings a trainer reads: by recording a run, and in the source of the code that the run would call."""

import dataclasses
import inspect
import re
import sys
import textwrap
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import transformers.integrations.integration_utils
import transformers.trainer_optimizer
import trl.trainer.callbacks

import trl_ext

COPIERS = {
    # of dataclasses and of `TrainingArguments`: they copy or print every field
    "_asdict_inner", "asdict", "fields", "replace", "to_dict", "__str__", "__repr__", "copy",
    # ours: a copy for checkpoints, and values put back after TRL's constructor
    "of_arguments", "temporarily",
}  # fmt: skip
"""Functions that read settings without using them."""

COPYING_FILES = ("trl_ext/report/card.py", "trl_ext/checks/settings.py")
COMPREHENSIONS = ("<dictcomp>", "<listcomp>", "<genexpr>", "<setcomp>")

MODULES = (transformers.integrations.integration_utils, transformers.trainer_optimizer, trl.trainer.callbacks)
"""Where code of the libraries outside of trainers and configurations reads settings."""

NAMED = re.compile(r"(?:(?<=\bargs\.)|(?<=\bself\.)|(?<=\bget\(\"))\w+")
"""A setting of `args`, of a configuration itself, or of a recipe."""


def recording(args: Any) -> tuple[Any, set[str]]:
    """Make a configuration record its fields that are read from now on.

    Args:
        args: A configuration; its class is replaced by a subclass.

    Returns:
        The configuration itself, and the set to which names of fields are added.
    """
    names = {field.name for field in dataclasses.fields(args)}
    read: set[str] = set()

    def __getattribute__(self: Any, name: str) -> Any:
        if name in names and name not in read and not _copies(sys._getframe(1)):
            read.add(name)
        return object.__getattribute__(self, name)

    def __reduce_ex__(self: Any, protocol: int) -> tuple:
        return cls.__new__, (cls,), dict(vars(self))  # a checkpoint pickles a configuration of the class itself

    cls = type(args)
    methods = {"__getattribute__": __getattribute__, "__reduce_ex__": __reduce_ex__, "__module__": cls.__module__}
    args.__class__ = type(cls.__name__, (cls,), methods)
    return args, read


def _copies(frame: Any) -> bool:
    code = frame.f_code
    if code.co_name in COMPREHENSIONS and frame.f_back is not None:
        return _copies(frame.f_back)
    return code.co_name in COPIERS or Path(code.co_filename).as_posix().endswith(COPYING_FILES)


def named_in_source(trainer: type, config: type) -> set[str]:
    """Names of attributes in the source that a trainer runs: methods that are in effect, and what they call of the libraries."""
    texts = [*_in_effect(trainer), *_in_effect(config), *map(inspect.getsource, MODULES), _ours()]
    return {name for text in texts for name in NAMED.findall(text)}


def _in_effect(cls: type) -> list[str]:
    """Source of the methods of a class and its parents that are called: those not replaced by a method without `super()`."""
    found, replaced = [], set()
    for part in cls.__mro__:
        for name, function in vars(part).items():
            function = getattr(function, "fget", None) or getattr(function, "func", None) or function
            if (
                not isinstance(function, FunctionType)
                or name in replaced
                or name in COPIERS
                or name.startswith("set_")
            ):
                continue
            if not Path(function.__code__.co_filename).is_file():
                continue  # made by `dataclass`
            text = textwrap.dedent(inspect.getsource(function))
            found.append(text)
            if f"super().{name}" not in text:
                replaced.add(name)
    return found


@cache
def _ours() -> str:
    """The code of trl-ext that reads settings to use them."""
    folder = Path(trl_ext.__file__).parent
    rooms = ("trainers", "batching", "build", "runs", "reference", "inspection")
    return "\n".join(
        path.read_text(encoding="utf-8") for room in rooms for path in sorted((folder / room).rglob("*.py"))
    )
