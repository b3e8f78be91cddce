"""Generate one answer and stream it in pieces."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, TextStreamer

from trl_ext.support.errors import UserError
from trl_ext.support.sampling import end_ids_of
from trl_ext.support.termination import Interrupted

Write = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How answers are sampled.

    Attributes:
        temperature: 0 for greedy decoding; `None` for the sampling of the model's generation config, or for temperature 1
            on the whole distribution if the config does not sample.
        max_new_tokens: Largest number of tokens per answer.
        seed: The same seed gives the same answers to the same conversation.
    """

    temperature: float | None
    max_new_tokens: int
    seed: int


class Streamer(TextStreamer):
    """Passes pieces of text to a function instead of printing them.

    Attributes:
        text: The text so far.
    """

    def __init__(self, tokenizer: Any, write: Write) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write
        self.text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.text += text
        if text:
            self._write(text)


@torch.no_grad()
def generate(
    model: Any, tokenizer: Any, prompt_ids: list[int], settings: Settings, write: Write, *, is_stoppable: bool
) -> str:
    """Generate the text of an answer.

    The same seed gives every answer the same random numbers, so that two models differ only by their weights.

    Args:
        model: In evaluation mode.
        tokenizer: Of the model.
        prompt_ids: The conversation up to the answer.
        settings: How to sample.
        write: Receives the text in pieces, which are whole words in languages with spaces.
        is_stoppable: On Ctrl-C, return the text so far instead of raising KeyboardInterrupt.

    Raises:
        UserError: The conversation leaves no room for an answer.
    """
    if not prompt_ids:
        raise UserError("The question has no tokens. Write a question.")
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = settings.max_new_tokens if longest is None else longest - len(prompt_ids)
    if room < 1:
        raise UserError(
            f"The conversation has {len(prompt_ids):,} tokens, but the model takes at most {longest:,}. Start a new conversation."
        )
    streamer = Streamer(tokenizer, write)
    input_ids = torch.tensor([prompt_ids], device=model.device)
    torch.manual_seed(settings.seed)
    try:
        output = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=_config(model, tokenizer, settings, room),
            streamer=streamer,
        )
    except KeyboardInterrupt as error:
        if not is_stoppable or isinstance(error, Interrupted):
            raise
        streamer.end()  # passes on the unfinished word
        return streamer.text
    return tokenizer.decode(output[0, len(prompt_ids) :], skip_special_tokens=True)


def _config(model: Any, tokenizer: Any, settings: Settings, room: int) -> GenerationConfig:
    own, temperature = model.generation_config, settings.temperature
    values: dict[str, Any] = {}
    if not own.do_sample:
        values = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    if temperature == 0:
        values = {"do_sample": False}
    elif temperature is not None:
        values |= {"do_sample": True, "temperature": temperature}
    return GenerationConfig(
        max_new_tokens=min(settings.max_new_tokens, room),
        eos_token_id=sorted(end_ids_of(model, tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
        **values,
    )
