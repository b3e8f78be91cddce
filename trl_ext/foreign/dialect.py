"""Define `Dialect`: how one program names its settings, and how a file of that program is recognised."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trl_ext.foreign.meaning import Meaning

Values = Mapping[str, Any]
"""The top-level keys of a file, those of the recipe's flags, and defaults of the other program where the dialect is known."""

Reader = Callable[[Any, Values], Meaning | Sequence[Meaning]]
"""Reads one key: (its value, all values of the file) to what it means. The value may have any type, and be `None`."""


def _nothing(values: Values) -> dict[str, Any]:
    return {}


def _never(values: Values) -> bool:
    return False


@dataclass(frozen=True)
class Dialect:
    """How one program names its settings.

    Attributes:
        name: The program, as sentences name it.
        means: What each key means: another name for a setting (the name), always the same `Meaning`, or a `Reader`. A key that is
            a setting here too has an entry if it means something else in this program. All other settings mean what they mean
            here.
        is_written_in: Whether a file is one of this program, from keys and values that no other program has.
        defaults: The program's own defaults of its keys, from the values of a file: those that may have another effect than the
            defaults here. Each is then read like a key of the file.
        not_a_recipe: For files that do not describe a training: the sentence that says what to do with such a file.
    """

    name: str
    means: Mapping[str, str | Meaning | Reader]
    is_written_in: Callable[[Values], bool] = _never
    defaults: Callable[[Values], Mapping[str, Any]] = _nothing
    not_a_recipe: str = ""

    def read(self, key: str, value: Any, values: Values) -> tuple[Meaning, ...]:
        """What a key means; empty if it is no key of this program's own. Each `Meaning` is about another part of the value."""
        meaning = self.means.get(key)
        if meaning is None:
            return ()
        if isinstance(meaning, str):
            renamed = (
                Meaning({meaning: value})
                if value is not None
                else Meaning(reason="it is empty, so the default applies")
            )
            return (renamed,)
        found = meaning if isinstance(meaning, Meaning) else meaning(value, values)
        return (found,) if isinstance(found, Meaning) else tuple(found)


def has(*keys: str) -> Callable[[Values], bool]:
    """Whether a file has one of these keys."""
    return lambda values: any(key in values for key in keys)
