"""Format given and allowed values for messages."""

import difflib
import re
from typing import Any

LONGEST = 120
"""Characters of a value or name that a message quotes."""
SHORTEST = 3
"""Characters from which on names with the same beginning are suggested."""


def one_of(given: str, allowed: tuple[str, ...] | list[str]) -> str:
    """“did you mean …” if a name is similar, else all allowed names; both if the list is short."""
    near = nearest(given, allowed)
    everything = f"allowed are {', '.join(sorted(allowed))}."
    if not near:
        return everything
    meant = f"did you mean {joined(near, 'or')}?"
    return meant if len(allowed) > 12 else f"{meant} {everything[0].upper()}{everything[1:]}"


def nearest(given: str, allowed: Any) -> list[str]:
    """Up to three allowed names that look like the given one: those it begins, the shortest first, then the nearest."""
    given, names = given[:LONGEST], [str(name) for name in allowed]
    begun = sorted((name for name in names if len(given) >= SHORTEST and name.startswith(given)), key=len)
    alike = difflib.get_close_matches(given, names, n=3, cutoff=0.66)
    return list(dict.fromkeys([*begun, *alike]))[:3]


def joined(parts: list[str], word: str = "and") -> str:
    """Parts of a sentence with commas, and `word` before the last."""
    return f" {word} ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def reason(error: Exception) -> str:
    """Why a library could not do something, in one line that ends with a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    is_of_validation = (
        len(lines) > 1 and "alidation error for" in lines[0]
    )  # huggingface_hub's, whose second line says what is wrong
    said = re.sub(r"^(TypeError|ValueError): ", "", lines[1]) if is_of_validation else lines[0]
    if isinstance(error, LookupError | ArithmeticError | AttributeError):  # their texts are hardly sentences
        said = f"{type(error).__name__}: {said}"
    return said if said.endswith((".", "!", "?")) else f"{said}."


def plain(value: Any) -> str:
    """A value as a recipe writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(value: Any) -> str:
    """A value roughly as the user wrote it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**LONGEST:
        return f"a number of more than {LONGEST} digits"
    return {list: "a list", dict: "a mapping"}.get(type(value)) or shown_text(repr(value))


def shown_text(text: str) -> str:
    """Format a text for a message: one line, unprintable characters escaped, shortened."""
    printable = one_line(text[: LONGEST + 1])
    return printable if len(printable) <= LONGEST else f"{printable[:LONGEST]}…"


def one_line(text: str) -> str:
    """A text with unprintable characters, such as ends of lines, escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
