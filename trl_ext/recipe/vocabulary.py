"""List the keys that a recipe may hold."""

from functools import lru_cache
from typing import Any

from trl_ext import losses, methods
from trl_ext.methods import METHODS
from trl_ext.recipe import schema

LOSS_KEYS = ("loss", "loss_kwargs", "variants")
ENV = "env"
OWN_KEYS = ("trainer", ENV, *LOSS_KEYS)
"""Keys that are neither a field of a configuration nor a hyperparameter."""

TRL_PREFERENCES, TRL_SAMPLING = ("DPOConfig", "KTOConfig"), "trl.RLOOConfig"
"""TRL's configurations of trainers with a loss on preferences, and of the trainer that samples."""

Keys = dict[str, schema.Field | None]
"""Keys of a recipe, each with its field where it is one of a configuration."""


def known_keys(kind: str = methods.of(None).name) -> Keys:
    """Every key that a recipe of one kind of training may hold.

    A recipe without `trainer` may hold the keys of losses on pairs and on labelled completions, since `variants` may be for
    either; where both have a key, its field is that of `kind`.

    Args:
        kind: A key of `methods.METHODS`.
    """
    return dict(_known_keys(kind, losses.available()))


def trainers_of(key: str) -> list[str]:
    """The values of `trainer` whose recipes may set this key for the trainer."""
    return [name for name in methods.TRAINERS if key in schema.training(name)]


def hyperparameters() -> tuple[str, ...]:
    """The hyperparameters of all losses."""
    return _hyperparameters(losses.available())


def exclusive() -> tuple[tuple[str, ...], ...]:
    """Groups of hyperparameters of which only one is ever given."""
    return _exclusive(losses.available())


def is_trl_default(key: str, value: Any, kind: str) -> bool:
    """Whether a hyperparameter has the default of a configuration of TRL's, whose complete list of settings holds it.

    Args:
        kind: A key of `methods.METHODS`, whose trainer's parent counts beside TRL's preference trainers.
    """
    parents = TRL_PREFERENCES if METHODS[kind].is_default else (*TRL_PREFERENCES, TRL_SAMPLING)
    found = [field.default for name in parents if (field := schema.fields(name).get(key)) is not None]
    return any(type(value) is not bool and value == default for default in found)


def defaults(kind: str) -> dict[str, Any]:
    """The default of every key of a kind of training, where it is a literal in the source."""
    fields = {key: field for key, field in known_keys(kind).items() if field is not None}
    return {key: field.default for key, field in fields.items() if field.default is not schema.MISSING}


# The registry looks for losses each time it is asked; the names it found are what to remember results by.
@lru_cache
def _known_keys(kind: str, names: tuple[str, ...]) -> Keys:
    method = METHODS[kind]
    keys: Keys = dict.fromkeys(key for key in OWN_KEYS if method.has_loss or key not in LOSS_KEYS)
    if method.has_loss:
        keys |= dict.fromkeys(_hyperparameters(names))
    if method.is_default:
        for other in METHODS.values():
            keys |= schema.training(other.name) if other.is_default else {}
    return keys | schema.training(kind) | schema.model() | schema.data() | schema.fields("RunExtras")


@lru_cache
def _hyperparameters(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for name in names for key in losses.describe(name).hyperparameters))


@lru_cache
def _exclusive(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(dict.fromkeys(group for name in names for group in losses.describe(name).exclusive))
