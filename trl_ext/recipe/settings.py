"""Settings that remember where they were written, so that a sentence about one can name the place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.losses import LossInfo, MixInfo
from trl_ext.methods import Method
from trl_ext.recipe.vocabulary import defaults, known_keys
from trl_ext.support.messages import joined, shown_text


class Setting(NamedTuple):
    """One value. `where` is how a sentence names it: `` `beta` (line 7) `` or `` `--beta` ``."""

    value: Any
    where: str


Layer = dict[str, Setting]


class Settings:
    """The merged settings of a recipe, as `trl_ext.checks` reads them.

    Attributes:
        method: The kind of training.
        loss: Declaration of the loss; `None` if there is none or it is not known.
        reported: Settings whose absence is reported elsewhere: the key was misspelled, or another recipe makes the folder.
        folder: The folder of the recipe.
    """

    is_recipe = True

    def __init__(
        self, layer: Layer, method: Method, loss: LossInfo | MixInfo | None, reported: set[str], folder: Path
    ) -> None:
        self._layer = layer
        self._fields = {key: field for key, field in known_keys(method.name).items() if field is not None}
        self._defaults = defaults(method.name)
        self.method = method
        self.loss = loss
        self.reported = reported
        self.folder = folder

    def has(self, key: str) -> bool:
        """Whether there is such a setting: a field of a configuration, or `env`."""
        return key in self._fields or key == "env"

    def __contains__(self, key: str) -> bool:
        return key in self._layer

    def __iter__(self) -> Iterator[str]:
        return iter(self._layer)

    def __getitem__(self, key: str) -> Any:
        """The value set, else the default, else `None`."""
        return self._layer[key].value if key in self._layer else self._defaults.get(key)

    def differs(self, key: str) -> bool:
        """Whether the value is another than the default, where that is known."""
        return key in self._defaults and self[key] != self._defaults[key]

    def where(self, key: str) -> str:
        """How a sentence names this setting."""
        return self._layer[key].where if key in self._layer else f"`{key}`"

    def named(self, *keys: str) -> str:
        """Several settings in a sentence: those that were set."""
        return joined([self.where(key) for key in keys if key in self._layer])


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
