"""Collect all problems of a recipe, so that one error reports every one of them."""

import math
import re
from pathlib import Path

from trl_ext.recipe.layers.layer import Place
from trl_ext.support.errors import UserError


class Problems:
    """The problems of one recipe, and the notes on it.

    A problem found twice (in the variant of the chosen loss, and after merging) is reported once.

    Attributes:
        notes: Sentences about settings that are allowed but may not be intended.
        next_step: Sentences about what helps with the problems, if anything is known.
        names_foreign_keys: Whether some keys are those of another program, or of an older release.
    """

    def __init__(self, recipe: Path) -> None:
        self.notes: list[str] = []
        self.next_step = ""
        self.names_foreign_keys = False
        self._recipe = recipe
        self._lines: dict[str, float] = {}

    def add(self, place: Place, text: str) -> None:
        """Add a problem of one setting; `text` continues the sentence that begins with its place."""
        self._lines.setdefault(f"{place} {text}", math.inf if place.line is None else place.line)

    def add_sentences(self, *sentences: str) -> None:
        """Add problems whose sentences name their places themselves."""
        for sentence in sentences:
            self._lines.setdefault(sentence, _first_line(sentence))

    def raise_if_any(self) -> None:
        """Raise one UserError with all problems in the order of the file; flags and the recipe as a whole come last."""
        if self._lines:
            converting = (
                f"`trl-ext convert {self._recipe}` writes this file as a recipe." if self.names_foreign_keys else ""
            )
            raise UserError(
                sorted(self._lines, key=self._lines.__getitem__),
                about=str(self._recipe),
                next_step=" ".join(filter(None, (self.next_step, converting))),
            )


def _first_line(sentence: str) -> float:
    found = re.search(r"\blines? (\d+)", sentence)
    return int(found[1]) if found else math.inf
