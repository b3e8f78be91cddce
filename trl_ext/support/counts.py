"""Write counts in sentences."""

from __future__ import annotations


def count(n: int, plural: str) -> str:
    """``count(1, "rows")`` is "1 row", ``count(2312, "pairs")`` is "2,312 pairs"."""
    return f"{n:,} {plural[:-1] if n == 1 else plural}"


def every(n: int, plural: str) -> str:
    """``every(1, "rows")`` is "the only row", ``every(2, "pairs")`` is "all 2 pairs"."""
    return f"the only {plural[:-1]}" if n == 1 else f"all {n:,} {plural}"


def are(n: int) -> str:
    """The verb after a count."""
    return "is" if n == 1 else "are"
