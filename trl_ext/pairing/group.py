"""The completions of one prompt."""

from __future__ import annotations

from typing import NamedTuple

from trl_ext.judging.judge import Prompt


class Completion(NamedTuple):
    """What the model wrote.

    Attributes:
        text: Without special tokens.
        tokens: Its length, the end token included.
        is_ended: Whether it ended before the limit.
    """

    text: str
    tokens: int
    is_ended: bool


class Group(NamedTuple):
    """A prompt with the completions that were sampled for it, in the order of sampling."""

    prompt: Prompt
    completions: list[Completion]

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]
