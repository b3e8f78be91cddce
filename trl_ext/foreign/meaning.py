"""Define `Meaning`: what a key of another program's file means in a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trl_ext.support.messages import joined
from trl_ext.support.yaml_text import line


@dataclass(frozen=True)
class Meaning:
    """What one key of another program's file, or one entry of its value, means in a recipe.

    The texts are sentences without their full stop. The first letter is that of a sentence that continues after a colon.

    Attributes:
        settings: What to write instead, in this order. Empty if there is nothing to write.
        reason: Why it is written otherwise, or why there is nothing to write. Empty for a key that only has another name.
        changes: How the training then differs from that of the other program. Empty if it does not.
        advice: What to do, where that is neither "write the settings" nor "remove it".
        prevents: No recipe trains what the file is for, so that none is written.
        part: The entry of the value that this is about (``datasets[0].type``). Empty: the whole value.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    changes: str = ""
    advice: str = ""
    prevents: bool = False
    part: str = ""

    @property
    def sentence(self) -> str:
        """What `validate` prints after "is not a setting here: "."""
        advice = self.advice or (f"write {written(self.settings)}" if self.settings else "remove it")
        first, *others = [text for text in (self.reason, advice, self.changes) if text]
        return ". ".join([first, *map(_capital, others)]) + "."

    @property
    def explanation(self) -> str:
        """Reason and changes as sentences, for a comment in a recipe; empty if there are none."""
        return " ".join(f"{_capital(text)}." for text in (self.reason, self.changes) if text)


def written(settings: Mapping[str, Any]) -> str:
    """Settings as lines of a recipe, in a sentence: `` `a: 1` and `b: 2` ``."""
    return joined([line(key, value) for key, value in settings.items()])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
