"""Rule about `debug`, whose options transformers judges when the configuration is made."""

import ast
from collections.abc import Iterator
from functools import lru_cache

from trl_ext.checks import installed_source
from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings
from trl_ext.support import messages


@problem("debug")
def options(s: Settings) -> Iterator[str]:
    given = s["debug"]
    words = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    for word in words:
        if str(getattr(word, "value", word)) not in known_options():
            yield f"{s.where('debug')} names {messages.shown(word)}: {messages.one_of(str(word), known_options())}"


@lru_cache
def known_options() -> tuple[str, ...]:
    """The options of `debug` that the installed transformers has, from its source."""
    found = installed_source.find(installed_source.parse("transformers", "debug_utils.py"), "DebugOption")
    return tuple(part.value.value for part in found.body if isinstance(part, ast.Assign))
