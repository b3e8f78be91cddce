"""Compare the prompts that a GGUF file makes with those of the tokenizer that the model was trained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jinja2

from trl_ext.export.gguf.turns import Messages, Turns, conversation, probes, renderer
from trl_ext.support.errors import UserError
from trl_ext.support.messages import shown_text

TEXTS = (
    "Hello world",
    "  two  spaces, 12345 digits\n\n\ttab",
    "it's «ünïcode» 日本語 🙂",
    "def f(x):\n    return x**2  # ok",
)
"""Texts whose tokens are compared."""


class Prompts(NamedTuple):
    """What a GGUF file makes of a conversation.

    Attributes:
        template: Its chat template in Jinja; `None` if it has none.
        adds_begin: Whether llama.cpp puts the begin token before every prompt.
        tokens: Ids of a prompt's tokens, the begin token included.
    """

    template: str | None
    adds_begin: bool
    tokens: Callable[[str], list[int]]


def check(found: Prompts, tokenizer: Any, turns: Turns | None, name: str) -> int:
    """Compare text and tokens of several conversations: by the template in the file, and by the Modelfile's text between messages.

    Args:
        found: In the file.
        tokenizer: Of the run.
        turns: Text that the Modelfile writes, as learnt from the tokenizer; `None` if there is none.
        name: Of the file, for messages.

    Returns:
        The number of prompts compared.

    Raises:
        UserError: A prompt differs.
    """
    for text in TEXTS:
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = found.tokens(text)
        tokens = tokens[1:] if found.adds_begin and tokens[:1] == [tokenizer.bos_token_id] else tokens
        _require(
            tokens == expected,
            name,
            f"llama.cpp splits {shown_text(text)!r} into other tokens than the tokenizer of the run",
        )
    if not tokenizer.chat_template:
        return len(TEXTS)
    _require(found.template is not None, name, "it has no chat template, and the tokenizer of the run has one")
    conversations = probes(turns is None or turns.system_start is not None)
    for messages in conversations:
        prompt = _render(messages, tokenizer)
        if prompt is None:  # a conversation that the run's template refuses
            continue
        _require(
            _render(messages, tokenizer, found.template) == prompt,
            name,
            f"its chat template writes another prompt than the one of the run for {_sketch(messages)}",
        )
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        written = [("its chat template", _served(prompt, found, tokenizer))]
        if turns is not None:
            written.append(("the Modelfile", modelfile_turns(turns, found.adds_begin, tokenizer).render(messages)))
        for origin, text in written:
            tokens = found.tokens(text)
            _require(
                tokens == ids,
                name,
                f"the prompt of {origin} has {_difference(tokens, ids, tokenizer)} for {_sketch(messages)}",
            )
    return len(TEXTS) + len(conversations)


def modelfile_turns(turns: Turns, adds_begin: bool, tokenizer: Any) -> Turns:
    """The text for Ollama, which lets llama.cpp add the begin token."""
    return turns.without(tokenizer.bos_token) if adds_begin and tokenizer.bos_token else turns


def begins(tokenizer: Any) -> bool | None:
    """Whether prompts of the chat template begin with the begin token; `None` without template or begin token."""
    if not tokenizer.chat_template or not tokenizer.bos_token:
        return None
    prompt = _render(conversation("Hello."), tokenizer)
    return None if prompt is None else prompt.startswith(tokenizer.bos_token)


def _render(messages: Messages, tokenizer: Any, template: str | None = None) -> str | None:
    try:
        return renderer(tokenizer, template)(messages)
    except (jinja2.exceptions.TemplateError, ValueError, TypeError):
        return None


def _served(prompt: str, found: Prompts, tokenizer: Any) -> str:
    """The prompt as llama.cpp's server reads it: without a begin token that it adds itself."""
    return prompt.removeprefix(tokenizer.bos_token) if found.adds_begin and tokenizer.bos_token else prompt


def _require(holds: bool, name: str, problem: str) -> None:
    if not holds:
        raise UserError(
            f"{name} would not be served as the model was trained: {problem}. Export it again, or serve the merged model "
            "(`trl-ext merge`) with vLLM or transformers."
        )


def _difference(found: list[int], expected: list[int], tokenizer: Any) -> str:
    place = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    there, here = (tokenizer.decode(ids[place : place + 1]) or "nothing" for ids in (found, expected))
    return f"{shown_text(there)!r} where the prompt in training had {shown_text(here)!r} (token {place + 1})"


def _sketch(messages: Messages) -> str:
    return "a conversation " + ", ".join(message["role"] for message in messages)
