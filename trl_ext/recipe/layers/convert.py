"""Convert one value to the type of its field."""

import math
import sys
from collections.abc import Iterator
from typing import Any

from trl_ext.recipe.schema import KINDS, Field
from trl_ext.support import messages


def convert(field: Field, value: Any) -> Any:
    """The value in the field's type.

    As the parser of transformers does, it accepts numbers and booleans in quotes, a single entry in place of a list, and
    `no` (a boolean in YAML) where the text "no" is a choice.

    Raises:
        ValueError: Wrong type, or not among the choices. The message continues a sentence that begins with the setting's
            name: ``is 'fast': give a number.``
    """
    kinds = field.kinds
    if "Any" in kinds:
        return value
    for converted in _readings(value, kinds, field.choices):
        if field.choices and isinstance(converted, str) and converted not in field.choices:
            choices = [*field.choices, "true", "false"] if "bool" in kinds else field.choices
            raise ValueError(f"is {value!r}: {messages.one_of(converted, choices)}")
        return converted
    if value is None:
        raise ValueError(f"is empty: give {allowed(field)}, or remove the line.")
    remedy = f"give {allowed(field)}"
    if kinds <= {"str", "None"} and not isinstance(value, (list, dict)):
        remedy = f"give {allowed(field)} (put it in quotes to keep it as text)"
    raise ValueError(f"is {messages.shown(value)}: {remedy}.")


def _readings(value: Any, kinds: set[str], choices: tuple[str, ...] | None) -> Iterator[Any]:
    """The value in each kind that it can be read as, the most literal first."""
    number = _number(value)
    if value is None:
        if "None" in kinds:
            yield None
        return
    if isinstance(value, bool):
        if "bool" in kinds:
            yield value
        elif value is False and choices and "no" in choices:
            yield "no"
        return
    if number is not None:
        if "int" in kinds and float(number).is_integer():
            yield int(number)
        if "float" in kinds:
            yield number
    if isinstance(value, str):
        if "bool" in kinds and value.lower() in ("true", "false"):
            yield value.lower() == "true"
        if "str" in kinds:
            yield value
        if "None" in kinds and value.lower() in ("none", "null"):
            yield None
    if isinstance(value, dict) and "dict" in kinds:
        yield value
    if isinstance(value, (list, tuple)) and "list" in kinds:
        yield list(value)
    if isinstance(value, (str, int, float)) and "list" in kinds:
        yield [value]


def _number(value: Any) -> int | float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
        return value if math.isfinite(value) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return None if isinstance(value, int) and abs(value) > sys.float_info.max else value


def allowed(field: Field) -> str:
    """The values that a field takes, in words."""
    if field.choices:
        return "one of " + ", ".join(field.choices)
    kinds = field.kinds
    named = [text for kind, text in KINDS.items() if kind in kinds and not (kind == "int" and "float" in kinds)]
    if not named or named == ["null"]:
        return "null (it cannot be set in a recipe)"
    return " or ".join(named)
