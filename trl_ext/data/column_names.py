"""Recognise a column whose name differs from a known one in capitals, spaces and hyphens only: `Prompt`, `Response A`, `scoreA`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

from trl_ext.data.formats import PASSED, READ

KNOWN = frozenset((*READ, *PASSED))


def known_names(columns: Iterable[str]) -> dict[str, str]:
    """{column: known name}, for the columns that are another spelling of a name that no column has."""
    columns = tuple(columns)
    plain = {column: spelled_plainly(column) for column in columns}
    times = Counter(plain.values())
    return {
        column: name
        for column, name in plain.items()
        if column != name and name in KNOWN and name not in columns and times[name] == 1
    }


@cache
def spelled_plainly(name: str) -> str:
    """``"Human ref-A"`` and ``"humanRefA"`` are ``"human_ref_a"``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s_-]+", "_", words).lower()
