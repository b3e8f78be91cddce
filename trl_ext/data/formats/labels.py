"""Read labels of completions, desirable or undesirable, in every common spelling.

Python's truth values do not help: −1 and the string "false" are both true.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from trl_ext.support.errors import UserError

WORDS = (
    ("true", "false"),
    ("yes", "no"),
    ("desirable", "undesirable"),
    ("good", "bad"),
    ("chosen", "rejected"),
    ("accepted", "rejected"),
    ("preferred", "dispreferred"),
    ("positive", "negative"),
    ("like", "dislike"),
    ("liked", "disliked"),
    ("up", "down"),
    ("thumbs_up", "thumbs_down"),
    ("👍", "👎"),
)
DESIRABLE, UNDESIRABLE = (frozenset(words) for words in zip(*WORDS, strict=True))
ALLOWED = ", ".join(["true/false", "1/0", "1/-1", *("/".join(words) for words in WORDS[1:])])
DECORATION = "\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
"""Characters that may follow an emoji: its variant and skin tones."""


def word(value: Any) -> str:
    """A label in the spelling of `WORDS`."""
    return str(value).strip().rstrip(DECORATION).lower().replace(" ", "_").replace("-", "_")


def threshold(column: str) -> str:
    """A sentence on how to turn scores into labels."""
    return (
        f'Turn scores into labels with a threshold of your choice, in pandas: `rows["label"] = rows["{column}"] >= 4`.'
    )


def verdicts(values: Iterable[Any], column: str, source: str) -> dict[Any, bool]:
    """{label as written in the data: is it desirable}, for all the labels of a dataset.

    Known are True/False, 1/0, 1/−1 (numbers or text) and `WORDS` in any case. Unknown words are left out, and their rows are
    dropped and counted. So is a 0 in data that has both 1 and −1, where it means neither.

    Raises:
        UserError: The column does not hold two classes; it may be a rating from 1 to 5.
    """
    values = {value for value in values if value is not None and value == value}
    numbers = {value: _number(value) for value in values}
    known = {number for number in numbers.values() if number is not None}
    if known - {-1.0, 0.0, 1.0} or len(values) > 50:
        shown = ", ".join(str(value) for value in sorted(values, key=str)[:6]) + (", …" if len(values) > 6 else "")
        raise UserError(
            f"{source}: column `{column}` holds {shown}, which are not two classes. Allowed labels are {ALLOWED}. "
            f"{threshold(column)}"
        )
    result = {}
    for value in values:
        number = numbers[value]
        if number is not None and not (number == 0 and -1.0 in known):
            result[value] = number == 1
        elif number is None and word(value) in DESIRABLE | UNDESIRABLE:
            result[value] = word(value) in DESIRABLE
    if values and not result:
        shown = ", ".join(repr(value) for value in sorted(values, key=str)[:6])
        raise UserError(
            f"{source}: none of the labels in column `{column}` ({shown}) is known. Allowed labels are {ALLOWED}."
        )
    return result


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
