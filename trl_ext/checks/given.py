"""A trainer's configuration, read as rules read a recipe."""

from typing import Any


class Given:
    """Its fields by name; those it lacks are `None`.

    Args:
        args: The configuration.
    """

    def __init__(self, args: Any) -> None:
        self._args = args

    def __getitem__(self, key: str) -> Any:
        return getattr(self._args, key, None)

    def where(self, key: str) -> str:
        return f"`{key}`"
