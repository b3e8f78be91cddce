"""Read the ranges of a search: values to choose from, or an interval, for each setting and perhaps for each loss."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from trl_ext.support import messages
from trl_ext.support.messages import shown, shown_text

AUTO = "auto"
"""The default range of a setting."""
DECADE = 10
"""An interval whose ends differ by this factor is searched on a logarithmic scale unless it says otherwise."""
ENDS = ("low", "high", "log")
HOW = "Write values `[8, 16]`, an interval `{low: 1e-6, high: 1e-4}`, or `auto`."

FIXED = {
    "seed": "choosing a seed by its result selects luck",
    "data_seed": "choosing a seed by its result selects luck",
    "output_dir": "the search names the folders of its trials",
    "resume_from_checkpoint": "trials begin at the first step",
    "use_peft": "trials share the base and train an adapter each",
    "max_length": "trials are compared on the same data",
}
"""Settings that cannot be varied, and why."""
OF_ADAPTERS = ("lora_r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora")
"""Settings of the model that can be varied: the base stays the same."""


class Values(NamedTuple):
    """Values to choose from."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """Everything that a check has to try."""
        return self.values

    def __str__(self) -> str:
        return ", ".join(map(messages.plain, self.values))


class Interval(NamedTuple):
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    is_log: bool

    @property
    def ends(self) -> tuple[Any, ...]:
        """Everything that a check has to try."""
        return (self.low, self.high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', logarithmic' if self.is_log else ''}"


Range = Values | Interval


def read(value: Any) -> Range | None:
    """A range as a recipe writes it; `None` for `auto`.

    Raises:
        ValueError: It is none. The message ends a sentence that begins with its place.
    """
    if value == AUTO:
        return None
    if isinstance(value, dict):
        return _interval(value)
    given = value if isinstance(value, list) else [value]
    if not given:
        raise ValueError(f"has no values. {HOW}")
    if any(isinstance(each, (dict, list)) or each is None for each in given):
        raise ValueError(f"is {shown(value)}. {HOW}")
    return Values(tuple(dict.fromkeys(_number(each) if isinstance(each, str) else each for each in given)))


def is_by_loss(value: Any) -> bool:
    """Whether a value is a mapping from losses to ranges."""
    return isinstance(value, dict) and bool(value) and not set(map(str, value)) & set(ENDS)


def ranges(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Place and value of every range of a setting: itself, or one for each loss."""
    if is_by_loss(value):
        yield from ((f"{key}.{name}", each) for name, each in value.items())
    else:
        yield key, value


def problems(space: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Place in the space, and the end of a sentence, for each range that cannot be read."""
    for key, value in space.items():
        if key in FIXED:
            yield key, f"cannot be varied: {FIXED[key]}. Remove it."
            continue
        for place, given in ranges(key, value):
            try:
                read(given)
            except ValueError as error:
                yield place, str(error)


def _interval(given: dict[str, Any]) -> Interval:
    if unknown := [str(key) for key in given if key not in ENDS]:
        raise ValueError(f"has an entry `{shown_text(unknown[0])}`. Allowed are {messages.joined(list(ENDS))}.")
    if missing := [key for key in ("low", "high") if key not in given]:
        raise ValueError(f"has no `{missing[0]}`. {HOW}")
    low, high = (_number(given[key]) for key in ("low", "high"))
    for key, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"has {shown(given[key])} as `{key}`: give a number.")
    if not low < high:
        raise ValueError(
            f"goes from {low:g} to {high:g}: `low` has to be below `high`. Exchange them, or give one value."
        )
    is_log = given.get("log", low > 0 and high >= DECADE * low)
    if not isinstance(is_log, bool):
        raise ValueError(f"has {shown(is_log)} as `log`: give true or false.")
    if is_log and low <= 0:
        raise ValueError(
            f"is logarithmic and begins at {low:g}: a logarithm needs `low` above 0. Raise it, or set `log: false`."
        )
    return Interval(low, high, is_log)


def _number(value: Any) -> Any:
    """A number in quotes, or as YAML leaves it (`1e-6`), as a number."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
