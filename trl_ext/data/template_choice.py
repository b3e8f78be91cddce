"""Decide whether plain text becomes turns of a chat template: the setting `apply_chat_template`.

``auto`` is what somebody with an instruction-tuned model expects: plain text columns become user and assistant turns if the
tokenizer has a chat template, whatever the columns are called. Text in which the template was written by hand stays as it is.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from trl_ext.support.counts import count
from trl_ext.support.errors import UserError

SETTING = "apply_chat_template"
Setting = bool | Literal["auto"] | None
"""`None`: a run that was recorded before the setting existed. Its data stays as its format gives it."""
Style = Literal["text", "messages", "turns", "whole"]
"""How examples are stored: prompts and completions as plain text; messages; single turns that the format made of plain text
columns; whole texts in which prompt and completion are not apart."""
FEW = 0.05
"""Share of rows up to which the others decide."""


class ByHand(NamedTuple):
    """Rows in which the chat template was written by hand.

    Attributes:
        rows: Number of rows that hold one of the template's marks.
        total: Number of rows looked at.
        mark: The first mark that was found.
        first: Number of the first row with a mark.
        first_without: Number of the first row without one.
        unit: What the rows are called.
    """

    rows: int
    total: int
    mark: str = ""
    first: int = 0
    first_without: int = 0
    unit: str = "rows"


class Choice(NamedTuple):
    """What happens to the examples.

    Attributes:
        is_chat: True if the trainer reads messages, which the chat template writes as tokens.
        changes: True if the examples have to be converted: text to turns, or turns to text.
        sentence: For the user. It names the setting.
    """

    is_chat: bool
    changes: bool
    sentence: str


def choose(setting: Setting, style: Style, has_template: bool, by_hand: ByHand, where: str) -> Choice:
    """Decide for one split.

    Args:
        setting: The value of `apply_chat_template`.
        style: How the examples are stored.
        has_template: Whether the tokenizer has a chat template.
        by_hand: Rows in which the template was written by hand.
        where: What to call the data in errors.

    Raises:
        UserError: The setting cannot be followed, or `auto` cannot decide.
    """
    if setting is None:
        return _as_recorded(style)
    named = f"`{SETTING}: {str(setting).lower()}`"
    if setting is True and not has_template:
        raise UserError(
            f"{named} was given, but the tokenizer has no chat template. Choose an instruction-tuned model, put a "
            f"chat_template.jinja beside its tokenizer, or set `{SETTING}: false`."
        )
    if style == "messages":
        if setting is False:
            raise UserError(
                f"{named} was given, but {where} holds messages, which only a chat template can write as text. Remove the "
                "setting, or write prompts and completions as plain text."
            )
        return Choice(True, False, f"Chat template: applied to the messages ({named}).")
    if style == "whole":
        if setting is True:
            raise UserError(
                f"{named} was given, but the rows of {where} are whole texts without a column of prompts, so they have no "
                "turns. Add a column `prompt`, write messages, or remove the setting."
            )
        return Choice(False, False, f"Chat template: not applied. The rows are whole texts without prompts ({named}).")
    if setting is False:
        return _text(style, f"Prompts and completions stay plain text ({named}).")
    if not has_template:
        return _text(style, f"The tokenizer has none, so prompts and completions stay plain text ({named}).")
    if setting == "auto" and _is_by_hand(by_hand, where):
        return _text(style, _left_alone(by_hand))
    turns = "Chat template: applied. Plain text prompts become user turns, and completions become assistant turns"
    return Choice(True, style == "text", f"{turns} ({named}).{_but(by_hand)}")


def _as_recorded(style: Style) -> Choice:
    is_chat = style in ("messages", "turns")
    what = "applied to the messages" if is_chat else "not applied. Plain text stays plain text"
    return Choice(is_chat, False, f"Chat template: {what}, as this run was recorded before `{SETTING}` existed.")


def _text(style: Style, why: str) -> Choice:
    return Choice(False, style == "turns", f"Chat template: not applied. {why}")


def _is_by_hand(by_hand: ByHand, where: str) -> bool:
    """True if the template was written by hand in the data, apart from a few rows."""
    marked, plain = by_hand.rows, by_hand.total - by_hand.rows
    if min(marked, plain) > FEW * by_hand.total:
        raise UserError(
            f"{where}: {marked:,} of {count(by_hand.total, by_hand.unit)} contain `{by_hand.mark}`, which the chat template writes "
            f"(first: row {by_hand.first:,}), and the others do not (first: row {by_hand.first_without:,}). So the template was "
            f"applied by hand to some rows only. Correct the data, or set `{SETTING}`: with `true` the template is applied to "
            "all rows, with `false` to none."
        )
    return marked > plain


def _left_alone(by_hand: ByHand) -> str:
    which = "All" if by_hand.rows == by_hand.total else f"{by_hand.rows:,} of"
    others = "" if by_hand.rows == by_hand.total else f" Row {by_hand.first_without:,} is the first without it."
    return (
        f"{which} {count(by_hand.total, by_hand.unit)} contain `{by_hand.mark}`, which the chat template writes, so the text stays as "
        f"it is (`{SETTING}: auto`).{others}"
    )


def _but(by_hand: ByHand) -> str:
    if not by_hand.rows:
        return ""
    return (
        f" {count(by_hand.rows, 'rows')} already contained `{by_hand.mark}`, which the template writes again (first: row "
        f"{by_hand.first:,})."
    )
