"""The merged settings of a recipe, as `trl_ext.checks` reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.losses import LossInfo, MixInfo
from trl_ext.methods import Method
from trl_ext.recipe.layers.layer import Layer
from trl_ext.recipe.vocabulary import defaults, known_keys
from trl_ext.support.messages import joined


class Settings:
    """The merged settings of a recipe.

    Attributes:
        method: The kind of training.
        loss: Declaration of the loss; `None` if there is none or it is not known.
        reported: Settings whose absence is reported elsewhere: the key was misspelled, or another recipe makes the folder.
        folder: The folder of the recipe.
    """

    is_recipe = True

    def __init__(self, merged: Layer, method: Method, loss: LossInfo | MixInfo | None, folder: Path) -> None:
        self._settings, self._entries = merged.settings, merged.entries
        self._fields = {key: field for key, field in known_keys(method.name).items() if field is not None}
        self._defaults = defaults(method.name)
        self.method = method
        self.loss = loss
        self.reported = merged.reported - set(merged.settings)
        self.folder = folder

    def has(self, key: str) -> bool:
        """Whether there is such a setting: a field of a configuration, or `env`."""
        return key in self._fields or key == "env"

    def __contains__(self, key: str) -> bool:
        return key in self._settings

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __getitem__(self, key: str) -> Any:
        """The value set, else the default, else `None`."""
        return self._settings[key].value if key in self._settings else self._defaults.get(key)

    def differs(self, key: str) -> bool:
        """Whether the value is another than the default, where that is known."""
        return key in self._defaults and self[key] != self._defaults[key]

    def where(self, key: str) -> str:
        """How a sentence names this setting, or an entry of it: `evaluation.judge`."""
        if key in self._entries:
            return str(self._entries[key])
        return str(self._settings[key].place) if key in self._settings else f"`{key}`"

    def named(self, *keys: str) -> str:
        """How a sentence names several settings: those of them that were set."""
        return joined([self.where(key) for key in keys if key in self._settings])
