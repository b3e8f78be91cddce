"""Settings that remember where they were written, so that a sentence about one can name the place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.support.messages import shown_text


class Setting(NamedTuple):
    """One value. `where` is how a sentence names it: `` `beta` (line 7) `` or `` `--beta` ``."""

    value: Any
    where: str


Layer = dict[str, Setting]


class Settings:
    """The merged settings, as the checks see them.

    Attributes:
        meant: Settings that are not there because their names are old or misspelt, which was said already.
        folder: Where the recipe stands.
    """

    def __init__(self, layer: Layer, defaults: dict[str, Any], meant: set[str], folder: Path) -> None:
        self._layer = layer
        self._defaults = defaults
        self.meant = meant
        self.folder = folder

    def __contains__(self, key: str) -> bool:
        return key in self._layer

    def __iter__(self) -> Iterator[str]:
        return iter(self._layer)

    def __getitem__(self, key: str) -> Any:
        """The value set, else the default, else `None`."""
        return self._layer[key].value if key in self._layer else self._defaults.get(key)

    def where(self, key: str) -> str:
        """How a sentence names this setting."""
        return self._layer[key].where if key in self._layer else f"`{key}`"

    def named(self, *keys: str) -> str:
        """Several settings in a sentence: those that were set."""
        names = [self.where(key) for key in keys if key in self._layer]
        return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def from_file(values: dict[str, Any], lines: dict[tuple[str, ...], int], path: tuple[str, ...] = ()) -> Layer:
    """The settings in one mapping of a recipe file; `path` leads to it: ``("variants", "ipo")``, say."""
    return {
        str(key): Setting(value, f"`{shown_text('.'.join([*path, str(key)]))}`{_line(lines, (*path, str(key)))}")
        for key, value in values.items()
    }


def from_flags(values: dict[str, Any]) -> Layer:
    """The settings given on the command line."""
    return {key: Setting(value, f"`--{shown_text(key)}`") for key, value in values.items()}


def _line(lines: dict[tuple[str, ...], int], path: tuple[str, ...]) -> str:
    return f" (line {lines[path]})" if path in lines else ""
