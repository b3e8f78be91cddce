"""The keys a recipe may hold."""

import ast
from functools import lru_cache
from pathlib import Path
from typing import Any

from trl_ext import losses, schema

OWN_KEYS = ("loss", "loss_kwargs", "variants", "env")
"""Keys that are neither a field of a configuration nor a hyperparameter."""

FORMATS = Path(__file__).parents[1] / "data" / "formats"


def known_keys(paired: bool | None = None) -> dict[str, schema.Field | None]:
    """Every key, with its field if it is one. Where both trainers have it, that of the one named."""
    return dict(_known_keys(paired is not False, losses.available()))


def hyperparameters() -> tuple[str, ...]:
    """The hyperparameters of all losses."""
    return _hyperparameters(losses.available())


def exclusive() -> tuple[tuple[str, ...], ...]:
    """Groups of hyperparameters of which only one is ever given."""
    return _exclusive(losses.available())


def defaults(paired: bool | None = None) -> dict[str, Any]:
    """The defaults of all fields that have a literal one."""
    fields = {key: field for key, field in known_keys(paired).items() if field is not None}
    return {key: field.default for key, field in fields.items() if field.default is not schema.MISSING}


def dataset_formats() -> tuple[str, ...]:
    """What `dataset_format` may be: the `NAME` in each file of `trl_ext/data/formats`."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(FORMATS.glob("[!_]*.py"))]
    return ("auto", *(name for tree in trees for name in _names(tree)))


def _names(tree: ast.Module) -> list[str]:
    return [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and [target.id for target in node.targets if isinstance(target, ast.Name)] == ["NAME"]
    ]


def nearest(key: str) -> list[str]:
    """The keys that look like this one, the nearest first."""
    return schema.nearest(key, known_keys())


# The registry looks for losses each time it is asked; the names it found are what to remember results by.
@lru_cache
def _known_keys(paired: bool, names: tuple[str, ...]) -> dict[str, schema.Field | None]:
    own = dict.fromkeys((*OWN_KEYS, *_hyperparameters(names)))
    return own | schema.training(not paired) | schema.training(paired) | schema.model() | schema.data()


@lru_cache
def _hyperparameters(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for name in names for key in losses.describe(name).hyperparameters))


@lru_cache
def _exclusive(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(dict.fromkeys(group for name in names for group in losses.describe(name).exclusive))
