"""The keys a recipe may hold."""

from functools import lru_cache
from typing import Any

from trl_ext import losses, methods
from trl_ext.recipe import schema
from trl_ext.support import messages

LOSS_KEYS = ("loss", "loss_kwargs", "variants")
OWN_KEYS = ("trainer", "env", *LOSS_KEYS)
"""Keys that are neither a field of a configuration nor a hyperparameter."""

TRAINERS = {name: method.title for name, method in methods.TRAINERS.items()}
"""What `trainer` may be, and what it is called in a sentence. Without one, a loss on preferences is trained."""

WITH_LOSS = tuple(name for name, method in methods.TRAINERS.items() if method.has_loss)
"""Values of `trainer` with which `loss` says what is trained."""


def known_keys(kind: str = "paired") -> dict[str, schema.Field | None]:
    """Every key of a recipe, with its field if it is one.

    Args:
        kind: A key of `methods.METHODS`. A preference recipe may hold the keys of both kinds, for its variants; the
            field is then that of the one named.
    """
    return dict(_known_keys(kind, losses.available()))


def trainers_of(key: str) -> list[str]:
    """The values of `trainer` with which a recipe may hold this key."""
    return [trainer for trainer in TRAINERS if key in schema.training(trainer)]


def hyperparameters() -> tuple[str, ...]:
    """The hyperparameters of all losses."""
    return _hyperparameters(losses.available())


def exclusive() -> tuple[tuple[str, ...], ...]:
    """Groups of hyperparameters of which only one is ever given."""
    return _exclusive(losses.available())


def defaults(kind: str = "paired") -> dict[str, Any]:
    """The defaults of all fields that have a literal one."""
    fields = {key: field for key, field in known_keys(kind).items() if field is not None}
    return {key: field.default for key, field in fields.items() if field.default is not schema.MISSING}


def nearest(key: str, kind: str = "paired") -> list[str]:
    """The keys that look like this one, the nearest first."""
    return messages.nearest(key, known_keys(kind))


# The registry looks for losses each time it is asked; the names it found are what to remember results by.
@lru_cache
def _known_keys(kind: str, names: tuple[str, ...]) -> dict[str, schema.Field | None]:
    if kind in TRAINERS:
        own = dict.fromkeys(key for key in OWN_KEYS if kind in WITH_LOSS or key not in LOSS_KEYS)
        own |= dict.fromkeys(_hyperparameters(names) if kind in WITH_LOSS else ())
        return own | schema.training(kind) | schema.model() | schema.data()
    own = dict.fromkeys((*OWN_KEYS, *_hyperparameters(names)))
    other = "unpaired" if kind == "paired" else "paired"
    return own | schema.training(other) | schema.training(kind) | schema.model() | schema.data()


@lru_cache
def _hyperparameters(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for name in names for key in losses.describe(name).hyperparameters))


@lru_cache
def _exclusive(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(dict.fromkeys(group for name in names for group in losses.describe(name).exclusive))
