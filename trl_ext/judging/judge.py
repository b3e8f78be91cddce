"""The interface of a judge: it is shown two answers to a prompt and says which is better.

Each source of verdicts is one file with one class that has these members.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

Prompt = str | list[dict[str, Any]]
"""A text or a conversation."""


class Conversation(list):
    """Messages, and what else the chat template is given for them.

    Attributes:
        variables: `tools`, and others such as `enable_thinking`.
    """

    def __init__(self, messages: Iterable[dict[str, Any]] = (), variables: Mapping[str, Any] | None = None) -> None:
        super().__init__(messages)
        self.variables = dict(variables or {})


def variables_of(prompt: Prompt) -> dict[str, Any]:
    """What the chat template is given besides the messages; nothing for a text."""
    return getattr(prompt, "variables", {})


def key(prompt: Prompt) -> str:
    """A text that is another one for every other prompt."""
    variables = variables_of(prompt)
    return json.dumps([prompt, variables] if variables else prompt, ensure_ascii=False)


def as_record(prompt: Prompt) -> dict[str, Any]:
    """A prompt as JSON has it in the line of a file: `prompt`, and `variables` if there are any."""
    variables = variables_of(prompt)
    return {"prompt": prompt, "variables": variables} if variables else {"prompt": prompt}


def of_record(record: Mapping[str, Any]) -> Prompt:
    """The prompt of such a line. Raises LookupError, TypeError or AttributeError if it is another one."""
    variables = record.get("variables")
    return Conversation(record["prompt"], variables) if variables else record["prompt"]


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
