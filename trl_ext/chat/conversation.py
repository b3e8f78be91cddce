"""What was said so far, as token ids."""

from typing import Any

from jinja2 import TemplateError

from trl_ext.support.errors import UserError


class Conversation:
    """Messages in turn, rendered by the chat template; without one, plain text that the model continues.

    Args:
        tokenizer: Of the model.
        template: Chat template, where it is the processor's and not the tokenizer's.
        system: First message, of the role `system`.

    Raises:
        UserError: A system message where there is no chat template, or one that takes none.
    """

    def __init__(self, tokenizer: Any, template: str | None = None, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template or tokenizer.chat_template
        self.messages: list[dict[str, str]] = []
        self.start_again(system)

    def start_again(self, system: str | None) -> None:
        """Forget everything; `system` opens the new conversation."""
        if system is None:
            self.messages = []
            return
        if not self._template:
            raise UserError("The model has no chat template, so it knows no system message: put it into the question.")
        opening = [{"role": "system", "content": system}]
        rendered = self._rendered([*opening, {"role": "user", "content": "?"}])
        if system.strip() not in self._tokenizer.decode(rendered):
            raise UserError("The chat template of the model leaves system messages out: put it into the question.")
        self.messages = opening

    def ask(self, text: str) -> list[int]:
        """Add a question; token ids of the conversation up to the answer."""
        self.messages.append({"role": "user", "content": text})
        return self._rendered(self.messages)

    def answered(self, text: str) -> None:
        """Add the answer to the last question."""
        self.messages.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """Forget the last question, which has no answer."""
        self.messages.pop()

    def _rendered(self, messages: list[dict[str, str]]) -> list[int]:
        if not self._template:
            return self._tokenizer(_plain(messages))["input_ids"]
        try:
            return self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, add_generation_prompt=True, return_dict=False
            )
        except TemplateError as error:
            raise UserError(f"The chat template of the model refuses this: {error}.") from error


def _plain(messages: list[dict[str, str]]) -> str:
    """Answers follow their question as they are; a further question begins a new line."""
    text = ""
    for message in messages:
        text += "\n" * (message["role"] == "user" and text != "") + message["content"]
    return text
