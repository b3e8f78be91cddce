"""Give an object other attributes for a while."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def temporarily(owner: Any, **values: Any) -> Iterator[None]:
    """Context in which attributes have other values: those that TRL's code should see."""
    own = vars(owner)
    before = {name: own[name] for name in values if name in own}  # the others are the class's
    own.update(values)
    try:
        yield
    finally:
        for name in values:
            own.pop(name, None)
        own.update(before)
