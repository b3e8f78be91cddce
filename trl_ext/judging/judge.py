"""The interface of a judge: it is shown two answers to a prompt and says which is better.

Each source of verdicts is one file with one class that has these members.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

Prompt = str | list[dict[str, str]]
"""A text or a conversation."""


class Question(NamedTuple):
    """Two answers to a prompt, in the order in which the judge reads them."""

    prompt: Prompt
    first: str
    second: str

    def swapped(self) -> "Question":
        """The same answers in the other order."""
        return Question(self.prompt, self.second, self.first)


class Verdict(Enum):
    """What a judge says about a question; `UNCLEAR` if no verdict could be read from what it said."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    UNCLEAR = "unclear"

    def swapped(self) -> "Verdict":
        """The same verdict on the question in the other order."""
        return {Verdict.FIRST: Verdict.SECOND, Verdict.SECOND: Verdict.FIRST}.get(self, self)


class Judge(Protocol):
    """A source of verdicts.

    Attributes:
        name: For tables and records, such as `is_short` or `gpt-5-mini`.
        has_position: Whether the order of the answers may change the verdict, so that both orders have to be asked. A judge that
            scores each answer alone has none.
    """

    name: str
    has_position: bool

    def verdicts(self, questions: Sequence[Question]) -> Iterable[Verdict]:
        """A verdict for each question, in their order, each as soon as it is known."""
        ...
