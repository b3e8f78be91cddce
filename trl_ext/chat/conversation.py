"""Keep the messages of a conversation and render them as token ids."""

from typing import Any

from jinja2 import TemplateError

from trl_ext.support.errors import UserError


class Conversation:
    """Messages, rendered by the chat template. Without a template they are plain text that the model continues.

    Args:
        tokenizer: Of the model.
        template: Chat template of the processor, if it has one; otherwise the tokenizer's is used.
        system: First message, with the role `system`.

    Raises:
        UserError: A system message was given, and the model has no chat template or one without system messages.
    """

    def __init__(self, tokenizer: Any, template: str | None = None, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template or tokenizer.chat_template
        self.messages: list[dict[str, str]] = []
        self.start_again(system)

    def start_again(self, system: str | None) -> None:
        """Remove all messages. `system` is the first message of the new conversation."""
        if system is None:
            self.messages = []
            return
        if not self._template:
            raise UserError(
                "The model has no chat template, so it cannot have a system message. Put the text into the question."
            )
        opening = [{"role": "system", "content": system}]
        rendered = self._rendered([*opening, {"role": "user", "content": "?"}])
        if system.strip() not in self._tokenizer.decode(rendered):
            raise UserError("The chat template of the model ignores system messages. Put the text into the question.")
        self.messages = opening

    def ask(self, text: str) -> list[int]:
        """Add a question. Returns the token ids of the conversation up to the answer."""
        self.messages.append({"role": "user", "content": text})
        return self._rendered(self.messages)

    def answered(self, text: str) -> None:
        """Add the answer to the last question."""
        self.messages.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """Remove the last question, which was not answered."""
        self.messages.pop()

    def _rendered(self, messages: list[dict[str, str]]) -> list[int]:
        if not self._template:
            return self._tokenizer(_plain(messages))["input_ids"]
        try:
            return self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, add_generation_prompt=True, return_dict=False
            )
        except TemplateError as error:
            raise UserError(f"The chat template of the model rejects the conversation: {error}.") from error


def _plain(messages: list[dict[str, str]]) -> str:
    """Join messages. An answer follows its question directly, and each further question begins a new line."""
    text = ""
    for message in messages:
        text += "\n" * (message["role"] == "user" and text != "") + message["content"]
    return text
