"""Read the settings of a recipe and of a trainer's configuration by one interface."""

import dataclasses
import enum
import json
from collections.abc import Iterator, Set
from typing import Any, Protocol

from trl_ext.losses import LossInfo, MixInfo
from trl_ext.methods import Method
from trl_ext.support.messages import joined


class Settings(Protocol):
    """Settings as rules read them.

    Attributes:
        method: The kind of training.
        loss: Declaration of the loss; `None` if there is none or it is not known.
        reported: Settings whose absence is reported elsewhere: the key was misspelled, or another recipe makes the folder.
        is_recipe: Whether they are a recipe's.
    """

    method: Method
    loss: LossInfo | MixInfo | None
    reported: Set[str]
    is_recipe: bool

    def has(self, key: str) -> bool:
        """Whether there is such a setting."""
        ...

    def __contains__(self, key: str) -> bool:
        """Whether it was set: written in the recipe, or other than a configuration's default."""
        ...

    def __iter__(self) -> Iterator[str]:
        """The settings that were set."""
        ...

    def __getitem__(self, key: str) -> Any:
        """The value that was set, else the default, else `None`."""
        ...

    def differs(self, key: str) -> bool:
        """Whether the value is another than the default, where that is known."""
        ...

    def where(self, key: str) -> str:
        """The name of a setting in a sentence, with its line in a recipe."""
        ...

    def named(self, *keys: str) -> str:
        """The names of those settings that were set, in a sentence."""
        ...


class ConfigSettings:
    """The fields of a trainer's configuration, before or after its `__post_init__`.

    Args:
        config: A dataclass.
        method: The kind of training that it configures.
        loss: Declaration of the loss, where it is settled.
    """

    reported: Set[str] = frozenset()
    is_recipe = False

    def __init__(self, config: Any, method: Method, loss: LossInfo | MixInfo | None = None) -> None:
        self.method = method
        self.loss = loss
        self._config = config
        self._fields = {field.name: field for field in dataclasses.fields(config)}

    def has(self, key: str) -> bool:
        return key in self._fields

    def __contains__(self, key: str) -> bool:
        return self.differs(key)

    def __iter__(self) -> Iterator[str]:
        return filter(self.differs, self._fields)

    def __getitem__(self, key: str) -> Any:
        value = getattr(self._config, key, None)
        if isinstance(value, enum.Enum):
            return value.value
        if isinstance(value, str) and value.startswith("{") and key in self._config._VALID_DICT_FIELDS:
            return json.loads(value)  # as transformers does in `__post_init__`
        return value

    def differs(self, key: str) -> bool:
        return self.has(key) and self[key] != _default(self._fields[key])

    def where(self, key: str) -> str:
        return f"`{key}`"

    def named(self, *keys: str) -> str:
        return joined([self.where(key) for key in keys if key in self])


def _default(field: dataclasses.Field) -> Any:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return default.value if isinstance(default, enum.Enum) else default
