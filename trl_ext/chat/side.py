"""One of the models in a chat, with its own conversation."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from trl_ext.chat.answer import Settings, Write, generate
from trl_ext.chat.conversation import Conversation
from trl_ext.runs.loaded import Opened
from trl_ext.support.errors import UserError

TUNED, BASE = "tuned", "base"


class Side:
    """A model and its conversation.

    Args:
        name: `TUNED` or `BASE`.
        opened: The run.
        settings: How answers are sampled.
        system: First message of the conversation.
    """

    def __init__(self, name: str, opened: Opened, settings: Settings, system: str | None) -> None:
        self.name = name
        self._active: Callable[[], AbstractContextManager[Any]] = (
            opened.reference if name == BASE else lambda: nullcontext(opened.model)
        )
        self._tokenizer, self._settings = opened.tokenizer, settings
        self.conversation = Conversation(self._tokenizer, getattr(opened.processor, "chat_template", None), system)

    def answer(self, question: str, write: Write, *, is_stoppable: bool = False) -> str:
        """Answer a question in the conversation so far, and pass the text to `write` in pieces.

        Raises:
            UserError: The conversation is too long. The question is removed from it.
        """
        prompt_ids = self.conversation.ask(question)
        try:
            with self._active() as model:
                text = generate(model, self._tokenizer, prompt_ids, self._settings, write, is_stoppable=is_stoppable)
        except UserError:
            self.conversation.take_back()
            raise
        self.conversation.answered(text)
        return text


def sides_of(opened: Opened, settings: Settings, system: str | None, *, is_compared: bool) -> list[Side]:
    """The tuned model, preceded by its base model if they are compared."""
    return [Side(name, opened, settings, system) for name in ((BASE, TUNED) if is_compared else (TUNED,))]
