"""Check the types of a configuration's fields, which dataclasses do not. Recipes are checked against the same annotations."""

import dataclasses
import enum
import types
import typing
from collections.abc import Iterator
from typing import Any


def not_words(config: Any) -> Iterator[str]:
    """A sentence for each field that takes text, or a number, and has a list or a mapping.

    Rules look up words in tables, where a list would raise an error of its own.
    """
    annotations = typing.get_type_hints(type(config))  # HfArgumentParser changes `Field.type`
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list | tuple | set | dict) and _is_scalar(annotations[field.name]):
            kind = "a mapping" if isinstance(value, dict) else "a list"
            yield f"`{field.name}` is {kind}: give a single value."


def _is_scalar(annotation: Any) -> bool:
    """Whether no value of an annotated field is a container. False for annotations that are not read."""
    annotation = getattr(annotation, "__supertype__", annotation)  # of a `NewType`
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return all(_is_scalar(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Literal:
        return True
    is_class = isinstance(annotation, type) and typing.get_origin(annotation) is None
    return is_class and issubclass(annotation, str | int | float | enum.Enum | types.NoneType)
