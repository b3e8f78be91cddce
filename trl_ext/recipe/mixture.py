"""Convert the entries of `datasets`, each of which has settings of its own."""

from collections.abc import Iterator
from typing import Any

from trl_ext.recipe import schema
from trl_ext.recipe.convert import convert
from trl_ext.support import messages


def problems(entries: Any, where: str) -> Iterator[str]:
    """A sentence for each key of an entry that is no setting of a dataset, and for each value of another type.

    Args:
        entries: The value of `datasets`.
        where: How a sentence names it.
    """
    known = schema.fields("DatasetConfig")
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        if not isinstance(entry, dict) or not entry.get("path"):
            continue  # reported by `trl_ext.checks.data`
        for key, value in entry.items():
            if key not in known:
                meant = messages.one_of(str(key), tuple(known))
                yield f"Entry {number} of {where}: `{messages.shown_text(str(key))}` is not a setting of a dataset: {meant}"
                continue
            try:
                convert(known[key], value)
            except ValueError as error:
                yield f"Entry {number} of {where}: `{key}` {error}"
