"""Read `evaluation`, the mapping that says what a run evaluates at its end: names and types of its entries."""

from typing import Any

from trl_ext.checks.judge_api import KEY_VARIABLE
from trl_ext.recipe import schema
from trl_ext.recipe.layers.convert import convert
from trl_ext.recipe.layers.layer import Layer, Lines, Place, Setting, in_file
from trl_ext.recipe.problems import Problems
from trl_ext.support import messages
from trl_ext.support.paths import in_full

EVALUATION = "evaluation"

SECRETS = ("key", "token", "secret", "password")
"""Words in the names of entries that somebody may write a key under."""
PATHS = ("prompts", "judge_template", "dataset")
"""Entries whose value may be a path, in which no shell has expanded `~`."""


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
    kept: dict[str, Any] = {}
    for key, value in ((str(key), value) for key, value in given.value.items()):
        name = f"{EVALUATION}.{key}"
        place = merged.entries.setdefault(name, _place(given.place, key, lines))
        try:
            kept[key] = _converted(key, value)
        except ValueError as error:
            problems.add(place, str(error))
            merged.reported.add(name)
    merged.settings[EVALUATION] = Setting(kept, given.place)


def _place(whole: Place, key: str, lines: Lines) -> Place:
    return in_file((*whole.path, key), lines) if whole.path else whole.of_entry(key)


def _converted(key: str, value: Any) -> Any:
    known = schema.fields("EvaluationKeys")
    if key not in known:
        raise ValueError(_unknown(key, tuple(known)))
    converted = convert(known[key], value)
    return in_full(converted) if key in PATHS and isinstance(converted, str) else converted


def _unknown(key: str, known: tuple[str, ...]) -> str:
    """The end of a sentence about an entry that does not exist. The value is not quoted: it may be a key."""
    if f"judge_{key}" in known:
        return f"is not a setting of an evaluation: did you mean `judge_{key}`?"
    if any(word in SECRETS for word in key.lower().replace("-", "_").split("_")) or "apikey" in key.lower():
        return (
            "cannot be set: a recipe is copied into the run directory, so a key must not be in it. Remove the entry, and set the "
            f"environment variable {KEY_VARIABLE} to the key."
        )
    near = messages.nearest(key, known)
    meant = (
        f"did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else f"allowed are {', '.join(known)}."
    )
    return f"is not a setting of an evaluation: {meant}"
