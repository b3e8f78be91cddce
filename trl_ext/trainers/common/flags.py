"""Declare settings so that the parsers of flags of TRL and transformers read every value of them.

Both parsers convert the text of a flag by calling the type of its field. Of `int | str` they call `int`, which fails at
"auto", even as a default. A `NewType` returns the text as it is, and the configuration converts it.
"""

import argparse
from typing import Any, Literal, NewType

SwitchOrAuto = NewType("SwitchOrAuto", bool | Literal["auto"])
CountOrAuto = NewType("CountOrAuto", int | str)


class StoreSwitch(argparse.Action):
    """Store a switch. An option that begins with `--no` takes no value and stores false."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        is_negated = option_string.startswith("--no")
        if is_negated and values is not True:
            parser.error(f"{option_string} takes no value, and {values!r} is given. Remove the value.")
        setattr(namespace, self.dest, False if is_negated else values)


def switch(name: str) -> dict[str, Any]:
    """Metadata of a field that reads `--NAME`, `--NAME VALUE` and `--no_NAME`.

    The parsers add `--no_NAME` only where the default is true. This keeps it for a setting of TRL's with that default.
    """
    negated = [f"--no_{name}", f"--no-{name.replace('_', '-')}"]
    return {"nargs": "?", "const": True, "action": StoreSwitch, "aliases": negated}


def switched(value: Any) -> Any:
    """The value of a switch, whose text may be that of a flag."""
    text = value.lower() if isinstance(value, str) else None
    return {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}.get(text, value)


def numbered(value: Any) -> Any:
    """A number, whose text may be that of a flag; `None` for an empty one, and other text as it is."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("none", "null"):
        return None
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if value.isdigit() else number
