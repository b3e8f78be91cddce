"""Read `search`, the mapping that says what `trl-ext search` varies: names and types of its entries."""

from trl_ext.recipe.layers.blocks import SEARCH, meant, read_block
from trl_ext.recipe.layers.evaluation import NO_SECRET, is_secret
from trl_ext.recipe.layers.layer import Layer, Lines
from trl_ext.recipe.problems import Problems
from trl_ext.recipe.vocabulary import known_keys


def read_search(merged: Layer, lines: Lines, problems: Problems) -> None:
    """Convert the entries of `search` to their types, and drop those that do not exist or cannot be converted."""
    given = merged.settings.get(SEARCH)
    if given is None:
        return
    if given.value is None:
        del merged.settings[SEARCH]
        return
    read_block(merged, SEARCH, given, lines, problems, _unknown)


def _unknown(key: str) -> str:
    """The end of a sentence about an entry that does not exist."""
    if key in known_keys():
        return f"is a setting of a recipe. To vary it, write it in `search.space`: `space: {{{key}: [...]}}`."
    if is_secret(key):
        return NO_SECRET
    return f"is not a setting of a search: {meant(key, SEARCH)}"
