"""Settings with the place where they were written, one layer for each source."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trl_ext.losses import LossInfo
from trl_ext.support.messages import shown_text

Lines = Mapping[tuple[str, ...], int]
"""Line (from 1) of each key of a file, by its path: ``("variants", "ipo", "beta")``."""


class Place(NamedTuple):
    """Where a setting was written.

    Attributes:
        phrase: How a sentence names it: `` `beta` (line 7) `` or `` `--beta` ``.
        line: Its line in the file; `None` for flags.
        path: The keys that lead to it in the file: ``("variants", "ipo", "beta")``; empty for flags.
    """

    phrase: str
    line: int | None = None
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.phrase

    def of_entry(self, key: str) -> "Place":
        """The place of a key inside this setting's mapping."""
        return Place(f"`{shown_text(key)}` in {self.phrase}", self.line)

    def of_part(self, part: str) -> "Place":
        """The place of an entry that this setting's value has: ``datasets[0].type``."""
        return Place(f"`{shown_text(part)}`" + (f" (line {self.line})" if self.line else ""), self.line)


class Setting(NamedTuple):
    """A value and its place."""

    value: Any
    place: Place


@dataclass
class Layer:
    """The settings from one source.

    Attributes:
        settings: Settings by key.
        reported: Keys that were meant but got lost, by a wrong name or a value of a wrong type. A problem reports that, so
            they are not reported as missing too.
        entries: Places of entries of mappings, by both keys with a dot between them: `evaluation.judge`.
    """

    settings: dict[str, Setting] = field(default_factory=dict)
    reported: set[str] = field(default_factory=set)
    entries: dict[str, Place] = field(default_factory=dict)


@dataclass
class Variant(Layer):
    """The settings that a recipe has for one loss."""

    info: LossInfo = field(kw_only=True)


@dataclass
class Layers:
    """All sources of settings. Later ones win: file, then the variant of the chosen loss, then flags.

    Attributes:
        verb: The `trainer` that names a verb of TRL for preferences, `dpo` or `kto`, if one is given.
        entries: Flags such as `--evaluation.judge`, each for an entry of a mapping, by their names.
    """

    file: Layer
    flags: Layer
    variants: list[Variant] = field(default_factory=list)
    verb: Setting | None = None
    entries: dict[str, Setting] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Layer]:
        yield from self.variants
        yield self.file
        yield self.flags

    def variant_of(self, loss: str) -> Layer:
        """The variant of a loss (a canonical name), empty if there is none."""
        return next((variant for variant in reversed(self.variants) if variant.info.name == loss), Layer())


def from_file(values: Mapping[str, Any], lines: Lines, path: tuple[str, ...] = ()) -> dict[str, Setting]:
    """The settings in one mapping of a recipe file; `path` leads to it: ``("variants", "ipo")``, for instance."""
    return {str(key): Setting(value, in_file((*path, str(key)), lines)) for key, value in values.items()}


def from_flags(values: Mapping[str, Any]) -> dict[str, Setting]:
    """The settings given on the command line."""
    return {key: Setting(value, Place(f"`--{shown_text(key)}`")) for key, value in values.items()}


def in_file(path: tuple[str, ...], lines: Lines) -> Place:
    """The place of a key in a recipe file."""
    name, line = shown_text(".".join(path)), lines.get(path)
    return Place(f"`{name}`" if line is None else f"`{name}` (line {line})", line, path)
