"""Convert the text after a flag, or raise a sentence about the values that are allowed."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl_ext.support import encoding, messages
from trl_ext.support.errors import UserError


def whole_number(least: int, note: str = "") -> Callable[[str], int]:
    """A type of argparse for whole numbers of at least `least`; the error ends with `note`."""
    return _number(int, lambda value: value >= least, f"a whole number of at least {least}", note)


def number(phrase: str, is_allowed: Callable[[float], bool]) -> Callable[[str], float]:
    """A type of argparse for numbers that `is_allowed` accepts and `phrase` describes."""
    return _number(float, is_allowed, phrase)


def _number(kind: type, is_allowed: Callable[[Any], bool], phrase: str, note: str = "") -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value, shown = kind(text), text
        except ValueError:
            value, shown = None, repr(text)
        if value is None or not is_allowed(value):
            raise argparse.ArgumentTypeError(f"is {shown}: give {phrase}. {note}".rstrip())
        return value

    return read


def one_of(*allowed: str) -> Callable[[str], str]:
    """A type of argparse for one of a few names."""

    def read(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"is {text!r}: {messages.one_of(text, allowed)}")
        return text

    return read


def text(given: str) -> str:
    """A type of argparse for a text that a tokenizer will read."""
    try:
        return encoding.typed(given)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "is not text in UTF-8. Type it again in a terminal that uses UTF-8."
        ) from None


def writable_folder(flag: str, given: Any) -> Path:
    """The folder that a flag names for results, checked before the work whose results go there.

    Raises:
        UserError: It is not the name of a folder, or cannot be created or written to.
    """
    from trl_ext.support.paths import in_full, unwritable

    try:
        folder = Path(in_full(str(given)))
    except ValueError as error:
        raise UserError(f"`--{flag}` {error}") from error
    if (problem := unwritable(folder)) is not None:
        raise UserError(f"`--{flag}` is {given}, and {problem}")
    return folder


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Let a verb that reports what it does print only errors and warnings."""
    parser.add_argument("--quiet", action="store_true", help="print only errors, and warnings during training")
