"""Read the blocks of a recipe, mappings whose entries are settings of their own: `evaluation` and `search`."""

from collections.abc import Callable, Mapping
from typing import Any

from trl_ext.recipe import schema
from trl_ext.recipe.layers.convert import convert
from trl_ext.recipe.layers.layer import Layer, Lines, Place, Setting, in_file
from trl_ext.recipe.problems import Problems
from trl_ext.support import messages
from trl_ext.support.paths import in_full

EVALUATION, SEARCH = "evaluation", "search"
BLOCKS = {EVALUATION: "EvaluationKeys", SEARCH: "SearchKeys"}
"""Each block and the class of its entries, by its name in `schema.SOURCES`."""

PATHS = ("prompts", "judge_template", "dataset")
"""Entries whose value may be a path, in which no shell has expanded `~`."""


def entries() -> dict[str, schema.Field]:
    """The entries of all blocks as flags name them: `evaluation.judge`."""
    return {f"{block}.{key}": field for block, name in BLOCKS.items() for key, field in schema.fields(name).items()}


def read_block(
    merged: Layer, block: str, given: Setting, lines: Lines, problems: Problems, unknown: Callable[[str], str]
) -> None:
    """Convert the entries of a block to their types, and drop those that do not exist or cannot be converted.

    Args:
        merged: All settings; the block's is replaced.
        block: Its key.
        given: The mapping.
        lines: Of the recipe file.
        problems: Problems are added to it.
        unknown: The end of a sentence about an entry that does not exist, by its name.
    """
    known = schema.fields(BLOCKS[block])
    kept: dict[str, Any] = {}
    for key, value in ((str(key), value) for key, value in given.value.items()):
        name = f"{block}.{key}"
        place = merged.entries.setdefault(name, _place(given.place, key, lines))
        try:
            if key not in known:
                raise ValueError(unknown(key))
            kept[key] = _converted(known, key, value)
        except ValueError as error:
            problems.add(place, str(error))
            merged.reported.add(name)
    merged.settings[block] = Setting(kept, given.place)


def meant(key: str, block: str) -> str:
    """The remedy for an entry that does not exist."""
    known = tuple(schema.fields(BLOCKS[block]))
    near = messages.nearest(key, known)
    return f"did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else f"allowed are {', '.join(known)}."


def _place(whole: Place, key: str, lines: Lines) -> Place:
    return in_file((*whole.path, key), lines) if whole.path else whole.of_entry(key)


def _converted(known: Mapping[str, schema.Field], key: str, value: Any) -> Any:
    converted = convert(known[key], value)
    return in_full(converted) if key in PATHS and isinstance(converted, str) else converted
