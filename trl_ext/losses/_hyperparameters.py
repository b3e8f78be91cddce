"""Define the types of hyperparameters: annotations of a loss's keyword arguments, without importing torch.

A loss has, for example, `beta: Positive = 0.1`. At run time this is an ordinary annotation. Code that reads the syntax
tree looks up the name in `KINDS`, to check a value and to describe the allowed values. Besides the names below,
`Literal["a", "b"]`, `float`, `int`, `bool`, `str`, `None` and unions with `|` are supported.
"""

import ast
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin


@dataclass(frozen=True)
class Kind:
    """`phrase` completes "<name> must be …"; `accepts` says whether a value is allowed."""

    phrase: str
    accepts: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(*allowed: Any) -> Kind:
    # `True == 1` in Python: without comparing types, 1 would be accepted as a flag and True as a number.
    return Kind(
        "one of " + ", ".join(repr(value) for value in allowed),
        lambda value: any(type(value) is type(a) and value == a for a in allowed),
    )


def _number(phrase: str, holds: Callable[[Any], bool]) -> Kind:
    return Kind(phrase, lambda value: _is_number(value) and holds(value))


DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")

Real = Annotated[float, _number("a finite number", lambda x: True)]
Positive = Annotated[float, _number("a number greater than 0", lambda x: x > 0)]
NonNegative = Annotated[float, _number("a number of at least 0", lambda x: x >= 0)]
FlipProbability = Annotated[float, _number("a probability of at least 0 and below 0.5", lambda x: 0 <= x < 0.5)]
PositiveFlipProbability = Annotated[
    float, _number("a probability greater than 0 and below 0.5", lambda x: 0 < x < 0.5)
]
ClassWeight = Annotated[
    float | Literal["auto"],
    Kind(
        "a number greater than 0, or 'auto'",
        lambda value: value == "auto" if isinstance(value, str) else _is_number(value) and value > 0,
    ),
]
Divergence = Annotated[str, _one_of(*DIVERGENCES)]

KINDS: dict[str, Kind] = {
    name: get_args(alias)[1] for name, alias in list(globals().items()) if get_origin(alias) is Annotated
}
_BUILTIN = {
    "float": Kind("a finite number", _is_number),
    "int": Kind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "bool": Kind("true or false", lambda value: isinstance(value, bool)),
    "str": Kind("a text", lambda value: isinstance(value, str)),
}
_ANYTHING = Kind("anything", lambda value: True)


def kind_of(annotation: ast.expr | None) -> Kind:
    """Convert an annotation to a kind. ValueError for an unsupported annotation, whose bounds would not be checked."""
    match annotation:
        case None:
            return _ANYTHING
        case ast.Constant(value=None):
            return Kind("empty", lambda value: value is None)
        case ast.Name(id=name) if name in KINDS or name in _BUILTIN:
            return KINDS.get(name) or _BUILTIN[name]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            listed = choices.elts if isinstance(choices, ast.Tuple) else [choices]
            return _one_of(*(ast.literal_eval(choice) for choice in listed))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            kinds = kind_of(left), kind_of(right)
            return Kind(
                " or ".join(kind.phrase for kind in kinds),
                lambda value: any(kind.accepts(value) for kind in kinds),
            )
    raise ValueError(
        f"The annotation `{ast.unparse(annotation)}` is not supported. Use one of "
        f"{', '.join(sorted(KINDS))}, {', '.join(_BUILTIN)}, or Literal[...]."
    )
