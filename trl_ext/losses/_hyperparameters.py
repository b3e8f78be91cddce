"""Name the kinds of hyperparameters that losses have: annotations of their keyword arguments, without importing torch."""

from typing import Annotated, Literal, get_args, get_origin

from trl_ext.support.kinds import KINDS as COMMON
from trl_ext.support.kinds import Kind, NonNegative, Positive, Real, is_number, number, one_of

__all__ = ["DIVERGENCES", "KINDS", "Kind", "NonNegative", "Positive", "Real"]

DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")

FlipProbability = Annotated[float, number("a probability of at least 0 and below 0.5", lambda x: 0 <= x < 0.5)]
PositiveFlipProbability = Annotated[float, number("a probability greater than 0 and below 0.5", lambda x: 0 < x < 0.5)]
ClassWeight = Annotated[
    float | Literal["auto"],
    Kind(
        "a number greater than 0, or 'auto'",
        lambda value: value == "auto" if isinstance(value, str) else is_number(value) and value > 0,
    ),
]
Momentum = Annotated[float, number("a number of at least 0 and at most 1", lambda x: 0 <= x <= 1)]
Divergence = Annotated[str, one_of(*DIVERGENCES)]

KINDS: dict[str, Kind] = COMMON | {
    name: get_args(alias)[1] for name, alias in list(globals().items()) if get_origin(alias) is Annotated
}
