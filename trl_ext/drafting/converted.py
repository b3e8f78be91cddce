"""Convert a file of another program to the text of a recipe, and check what is written."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from trl_ext import foreign, recipe
from trl_ext.drafting import converted_page
from trl_ext.drafting.conversion import Conversion, convert
from trl_ext.recipe import reader
from trl_ext.support.errors import UserError
from trl_ext.support.yaml_layout import layout

REFUSED = re.compile(r"`(\w+)` \(line \d+\)(?=.*(?:\bremove it\.|would have no effect))", re.IGNORECASE)
"""A problem whose remedy is to remove the setting that it begins with."""

UNREAD = re.compile(r"`(\w+)` \(line \d+\) has no effect\b")
"""A note on a setting that is not read."""


class Converted(NamedTuple):
    """The text of a recipe.

    Attributes:
        text: The file.
        problems: What is wrong with it, as `validate` says it.
        notes: What may not be intended, if there is no problem.
    """

    text: str
    problems: list[str]
    notes: list[str]


def convert_file(path: Path, trainer: str | None = None) -> Converted:
    """Convert a file. UserError if it cannot be read, or does not describe a training.

    Args:
        path: A YAML file.
        trainer: What it trains, as a value of `trainer`.
    """
    document = reader.read(path)
    if document.problems:
        raise UserError(document.problems, about=str(path))
    foreign.require_training(document.values, path)
    lines = layout(Path(path).expanduser().read_text(encoding="utf-8-sig"))
    made = convert(document.values, trainer)
    if made.prevented:
        raise UserError(made.prevented, about=str(path))
    while True:
        text = converted_page.text(made, path, lines)
        problems, notes = _check(text, path)
        refused, unread = _by_key(REFUSED, problems, made), _by_key(UNREAD, notes, made)
        if not refused and not unread:
            return Converted(text, problems, notes)
        for key, sentence in refused.items():
            made.drop(key, sentence)
        for key, sentence in unread.items():
            made.drop(key, sentence, matters=False)


def _by_key(pattern: re.Pattern, sentences: list[str], made: Conversion) -> dict[str, str]:
    """The sentences that begin with a setting of the recipe, by that setting and without its line."""
    found = {match[1]: sentence for sentence in sentences if (match := pattern.match(sentence))}
    return {
        key: re.sub(r"^`\w+` \(line \d+\) ", f"`{key}` ", sentence)
        for key, sentence in found.items()
        if key in made.settings or key in made.defaults
    }


def _check(text: str, path: Path) -> tuple[list[str], list[str]]:
    """The problems of a recipe with this text, and its notes."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        copy.write_text(text, encoding="utf-8")
        try:
            return [], recipe.load(copy).notes
        except UserError as error:
            return error.problems, []
