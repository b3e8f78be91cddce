"""Define the kinds of hyperparameters: annotations of a function's parameters, read without importing torch.

A loss has, for example, `beta: Positive = 0.1`. At run time this is an ordinary annotation. Code that reads the syntax
tree looks up the name in a table such as `KINDS`, to check a value and to describe the allowed values. Besides the names
of the table, `Literal["a", "b"]`, `float`, `int`, `bool`, `str`, `None` and unions with `|` are supported.
"""

import ast
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin


@dataclass(frozen=True)
class Kind:
    """`phrase` completes "<name> must be …"; `accepts` says whether a value is allowed."""

    phrase: str
    accepts: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def one_of(*allowed: Any) -> Kind:
    """The kind of these values."""
    # `True == 1` in Python: without comparing types, 1 would be accepted as a flag and True as a number.
    return Kind(
        "one of " + ", ".join(repr(value) for value in allowed),
        lambda value: any(type(value) is type(a) and value == a for a in allowed),
    )


def number(phrase: str, holds: Callable[[Any], bool]) -> Kind:
    """The kind of finite numbers for which a condition holds."""
    return Kind(phrase, lambda value: is_number(value) and holds(value))


Real = Annotated[float, number("a finite number", lambda x: True)]
Positive = Annotated[float, number("a number greater than 0", lambda x: x > 0)]
NonNegative = Annotated[float, number("a number of at least 0", lambda x: x >= 0)]
Share = Annotated[float, number("a number from 0 to 1", lambda x: 0 <= x <= 1)]

KINDS: dict[str, Kind] = {
    name: get_args(alias)[1] for name, alias in list(globals().items()) if get_origin(alias) is Annotated
}
_BUILTIN = {
    "float": Kind("a finite number", is_number),
    "int": Kind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "bool": Kind("true or false", lambda value: isinstance(value, bool)),
    "str": Kind("a text", lambda value: isinstance(value, str)),
}
_ANYTHING = Kind("anything", lambda value: True)


def kind_of(annotation: ast.expr | None, kinds: Mapping[str, Kind] = KINDS) -> Kind:
    """Convert an annotation to a kind. ValueError for an unsupported annotation, whose bounds would not be checked.

    Args:
        annotation: Of a parameter.
        kinds: The kinds with a name of their own.
    """
    match annotation:
        case None:
            return _ANYTHING
        case ast.Constant(value=None):
            return Kind("empty", lambda value: value is None)
        case ast.Name(id=name) if name in kinds or name in _BUILTIN:
            return kinds.get(name) or _BUILTIN[name]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            listed = choices.elts if isinstance(choices, ast.Tuple) else [choices]
            return one_of(*(ast.literal_eval(choice) for choice in listed))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            either = kind_of(left, kinds), kind_of(right, kinds)
            return Kind(
                " or ".join(kind.phrase for kind in either),
                lambda value: any(kind.accepts(value) for kind in either),
            )
    raise ValueError(
        f"The annotation `{ast.unparse(annotation)}` is not supported. Use one of "
        f"{', '.join(sorted(kinds))}, {', '.join(_BUILTIN)}, or Literal[...]."
    )
