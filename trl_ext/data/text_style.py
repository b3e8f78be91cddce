"""Say how a recognised dataset holds its prompts and completions: as plain text, or as messages."""

from __future__ import annotations

from trl_ext.data.formats import Match, Sample, hh
from trl_ext.data.template_choice import Style


def style_of(match: Match, found: Sample) -> Style:
    """The style of the source of a format.

    Messages made of plain text columns count as turns, except for transcripts and for messages that are written as text.
    """
    if not match.conversational:
        return "text" if "prompt" in match.columns else "whole"
    kinds = {found.kind(column) for column in match.columns} - {None}
    is_text = match.format != hh.NAME and not match.encoded and "messages" not in kinds
    return "turns" if is_text else "messages"
