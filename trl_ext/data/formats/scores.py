"""Read scores: numbers, or numbers written as text."""

from __future__ import annotations

import math
from typing import Any

from trl_ext.data.formats.row_outcome import Drop, Reason


def as_score(value: Any) -> float:
    """The number that a score is.

    Raises:
        Drop: It is missing (null or NaN), or not a number.
    """
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise Drop(Reason.NULL if value is None else Reason.BAD_SCORE) from None
    if math.isnan(score):
        raise Drop(Reason.NULL)
    return score
