"""Learn the text between the messages of a chat from what its template renders.

Chat templates are programs in Jinja, which Ollama does not run. Nearly all of them write fixed text between messages. That
text is found by rendering conversations of known words, and the result is accepted only if it reproduces the template's output
for further conversations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jinja2

from trl_ext.support.counts import count

Messages = list[dict[str, str]]
Render = Callable[[Messages], str]
"""The prompt for the next assistant message, as text."""

SYSTEM, USER, ANSWER = "system", "user", "assistant"


class Inexpressible(Exception):
    """The template writes more than fixed text between messages. The message is the reason, as a clause."""


@dataclass(frozen=True)
class Turns:
    """Fixed text around the messages of a conversation in which users and assistant take turns.

    Attributes:
        start: Before the first user message, without a system message. It holds the default system message, if there is one.
        system_start: Before a system message; `None` if the template allows none.
        system_end: Between a system message and the first user message.
        answer: Between a user message and its answer.
        user: Between an answer and the next user message.
        end: After the last user message: the beginning of the next answer.
        strips: Whether white space around messages is removed.
    """

    start: str
    system_start: str | None
    system_end: str
    answer: str
    user: str
    end: str
    strips: bool

    def render(self, messages: Messages) -> str:
        """The prompt for these messages: an optional system message, then users and answers in turns."""
        parts = [] if messages[0]["role"] == SYSTEM else [self.start]
        for message in messages:
            before = self.system_start if message["role"] == SYSTEM else ""
            after = {SYSTEM: self.system_end, USER: self.answer, ANSWER: self.user}[message["role"]]
            parts += [before or "", message["content"], after]
        return "".join([*parts[:-1], self.end])

    def without(self, begin: str) -> Turns:
        """The same without a token at the very beginning, which the tokenizer adds itself."""
        system_start = self.system_start and self.system_start.removeprefix(begin)
        return replace(self, start=self.start.removeprefix(begin), system_start=system_start)


def renderer(tokenizer: Any, template: str | None = None, **variables: Any) -> Render:
    """Render with a tokenizer's chat template, or with another one for the same tokenizer.

    Args:
        tokenizer: Its special tokens are variables of the template.
        template: In place of the tokenizer's own.
        variables: Further variables of the template.
    """
    options = {"chat_template": template} if template is not None else {}
    return lambda messages: tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **options, **variables
    )


def conversation(*contents: str, system: str | None = None) -> Messages:
    """User and assistant messages in turns, from the first user message on."""
    roles = [USER, ANSWER] * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return messages if system is None else [{"role": SYSTEM, "content": system}, *messages]


PROBES = (
    ("Hello.",),
    ("What is 2 + 2?", "It is 4.", "And 3 + 3?"),
    ("Write\ntwo lines: {{ .Content }} «ß» 日本", '"Yes", {% if %}\n\nno.', "One", "Two <b>", "Three"),
)
"""Conversations that rendered text is compared on, each without and with a system message."""

SYSTEM_MESSAGE = "You are brief.\nYou are kind."


def probes(allows_system: bool) -> list[Messages]:
    """The conversations to compare on."""
    systems = (None, SYSTEM_MESSAGE) if allows_system else (None,)
    return [conversation(*contents, system=system) for contents in PROBES for system in systems]


def learn(render: Render) -> Turns:
    """Find the text between messages.

    Raises:
        Inexpressible: The template writes something else than fixed text between messages in turns.
    """
    first, answer, second, system = "Quxa1", "Quxb2", "Quxc3", "Quxd4"
    try:
        start, end = _around(render(conversation(first)), first)
        _, between, after, _ = _around(render(conversation(first, answer, second)), first, answer, second)
    except jinja2.exceptions.TemplateError as error:
        raise Inexpressible(f"it fails on a plain conversation ({error})") from error
    system_start, system_end = None, ""
    with contextlib.suppress(
        jinja2.exceptions.TemplateError, Inexpressible
    ):  # it refuses system messages or leaves them out
        system_start, system_end, _ = _around(render(conversation(first, system=system)), system, first)
    turns = Turns(start, system_start, system_end, between, after, end, strips=False)
    for messages in probes(system_start is not None):
        if render(messages) != turns.render(messages):
            shape = "with" if messages[0]["role"] == SYSTEM else "without"
            raise Inexpressible(
                f"a conversation of {count(len(messages), 'messages')} {shape} a system message is not fixed text between messages"
            )
    spaced = conversation(" one \n")
    return turns if render(spaced) == turns.render(spaced) else replace(turns, strips=True)


def _around(text: str, *words: str) -> list[str]:
    """The parts of a text before, between and after words that it holds once each, in this order."""
    parts = []
    for word in words:
        if text.count(word) != 1:
            raise Inexpressible("it leaves a message out, repeats or reorders messages")
        before, text = text.split(word)
        parts.append(before)
    return [*parts, text]
