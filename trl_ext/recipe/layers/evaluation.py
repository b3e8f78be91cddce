"""Read `evaluation`, the mapping that says what a run evaluates at its end: names and types of its entries."""

from trl_ext.checks.judge_api import KEY_VARIABLE
from trl_ext.recipe import schema
from trl_ext.recipe.layers.blocks import BLOCKS, EVALUATION, meant, read_block
from trl_ext.recipe.layers.layer import Layer, Lines, Setting
from trl_ext.recipe.problems import Problems

SECRETS = ("key", "token", "secret", "password")
"""Words in the names of entries that somebody may write a key under."""


def read_evaluation(merged: Layer, lines: Lines, problems: Problems) -> None:
    """Convert the entries of `evaluation` to their types, and drop those that do not exist or cannot be converted.

    `true` is a mapping without entries; `false` is as if it were not there.
    """
    given = merged.settings.get(EVALUATION)
    if given is None:
        return
    if not isinstance(given.value, dict):
        if given.value is not True:
            del merged.settings[EVALUATION]
            return
        given = Setting({}, given.place)
    read_block(merged, EVALUATION, given, lines, problems, _unknown)


def _unknown(key: str) -> str:
    """The end of a sentence about an entry that does not exist. The value is not quoted: it may be a key."""
    if f"judge_{key}" in schema.fields(BLOCKS[EVALUATION]):
        return f"is not a setting of an evaluation: did you mean `judge_{key}`?"
    if is_secret(key):
        return NO_SECRET
    return f"is not a setting of an evaluation: {meant(key, EVALUATION)}"


def is_secret(key: str) -> bool:
    """Whether an entry of this name may hold a key."""
    return any(word in SECRETS for word in key.lower().replace("-", "_").split("_")) or "apikey" in key.lower()


NO_SECRET = (
    "cannot be set: a recipe is copied into the run directory, so a key must not be in it. Remove the entry, and set the "
    f"environment variable {KEY_VARIABLE} to the key."
)
