"""Write counts in sentences."""

from __future__ import annotations


def count(n: int, plural: str) -> str:
    """``count(1, "rows")`` is "1 row", ``count(2312, "pairs")`` is "2,312 pairs"."""
    return f"{n:,} {_singular(plural) if n == 1 else plural}"


def every(n: int, plural: str) -> str:
    """``every(1, "rows")`` is "the only row", ``every(2, "pairs")`` is "all 2 pairs"."""
    return f"the only {_singular(plural)}" if n == 1 else f"all {n:,} {plural}"


def are(n: int) -> str:
    """The verb after a count."""
    return "is" if n == 1 else "are"


def were(n: int) -> str:
    """The verb after a count, in the past."""
    return "was" if n == 1 else "were"


def size_of(size: int) -> str:
    """``size_of(1_174_400)`` is "1.17 MB", ``size_of(16_060_522_496)`` is "16.1 GB"."""
    amount, unit = (size / 1e9, "GB") if size >= 1e9 else (size / 1e6, "MB")
    return f"{float(f'{amount:.3g}'):g} {unit}"


def _singular(plural: str) -> str:
    """``"losses"`` → ``"loss"``, ``"entries"`` → ``"entry"``, ``"rows"`` → ``"row"``; the last word of several is changed."""
    for ending, instead in (("sses", "ss"), ("ies", "y"), ("s", "")):
        if plural.endswith(ending):
            return plural.removesuffix(ending) + instead
    return plural
