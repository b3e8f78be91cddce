"""Record which settings a trainer reads: attributes of its configuration that code asks for while it trains."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

COPIERS = {
    # of dataclasses, of `TrainingArguments`: they read every field to copy or to print it
    "_asdict_inner", "asdict", "fields", "replace", "to_dict", "__str__", "__repr__", "copy",
    # ours: a copy for checkpoints, the table of the card, and values put back after TRL's constructor
    "of_arguments", "temporarily", "__getitem__", "differs", "settings_table",
}  # fmt: skip
"""Functions that read settings without using them."""

COPYING_FILES = ("trl_ext/report/card.py", "trl_ext/checks/settings.py")


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
    if code.co_name in ("<dictcomp>", "<listcomp>", "<genexpr>", "<setcomp>") and frame.f_back is not None:
        return _copies(frame.f_back)
    return code.co_name in COPIERS or Path(code.co_filename).as_posix().endswith(COPYING_FILES)
