"""Find the text that a chat template writes between turns, to recognise text in which somebody wrote it by hand."""

from __future__ import annotations

import re
from collections.abc import Callable

TURNS = ("Question-1", "Answer-1", "Question-2", "Answer-2")
"""Contents that no template contains."""

TOKEN = re.compile(r"<[^<>\s]{2,}>|\[/?[A-Z_]{2,}\]")
"""A special token, as templates write them: `<|im_start|>`, `<start_of_turn>`, `[INST]`."""

Render = Callable[[list[dict[str, str]]], str]
"""Writes a conversation as text, without a beginning of the next turn."""


def marks(render: Render) -> tuple[str, ...]:
    """What a template writes between turns: its special tokens, or for a template without any, the lines that begin turns.

    The end of a turn does not count, because the completions of plain text may end with the end-of-sequence token. Neither do
    the tags of reasoning, which belong to the completion.

    Args:
        render: Applies the template. Exceptions mean that the template cannot write such a conversation.

    Returns:
        For example ``("<|im_start|>",)`` or ``("ASSISTANT:", "USER:")``; empty if nothing can be found.
    """
    roles = ("user", "assistant", "user", "assistant")
    messages = [{"role": role, "content": content} for role, content in zip(roles, TURNS, strict=True)]
    try:
        text = render(messages)
    except Exception:  # templates are programs and raise anything
        return ()
    if not all(content in text for content in TURNS):
        return ()
    places = [text.index(content) for content in TURNS]
    if places != sorted(places):
        return ()
    between = "\n".join(text[places[i] + len(TURNS[i]) : places[i + 1]] for i in (0, 1))
    end = text[places[3] + len(TURNS[3]) :].strip()
    tokens = [token for token in TOKEN.findall(between) if token not in TOKEN.findall(end) and "think" not in token]
    lines = [line.strip() for line in (between.replace(end, "\n") if end else between).splitlines()]
    return tuple(dict.fromkeys(tokens or (line for line in lines if len(line) > 2 and not line.isalnum())))


def is_marked(text: object, found: tuple[str, ...]) -> bool:
    """True if the text contains one of the marks."""
    return isinstance(text, str) and any(mark in text for mark in found)
