"""What a row gives the chat template besides its messages: `tools`, and the variables of `chat_template_kwargs`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trl_ext.data.template_variables import without_none
from trl_ext.judging.judge import Conversation, Prompt, variables_of
from trl_ext.judging.scorers import prompt_ids
from trl_ext.support.counts import count

COLUMNS = ("tools", "chat_template_kwargs")


def of_row(row: Mapping[str, Any], recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """The variables of a row, as TRL's preference trainers read them: tools may be JSON in a text.

    Args:
        row: Of the data.
        recipe: `chat_template_kwargs` of the run. Those of the row come first.
    """
    tools, own = (_decoded(row.get(name)) for name in COLUMNS)
    return {**(recipe or {}), **(own or {}), **({"tools": tools} if tools else {})}


def statements(prompts: Sequence[Prompt], rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> Iterator[str]:
    """Sentences about variables that reach no model.

    Args:
        prompts: A prompt of each row.
        rows: Of the data.
        tokenizer: Of the model, with the chat template.
    """
    for name in COLUMNS:
        given = [prompt for prompt, row in zip(prompts, rows, strict=True) if _decoded(row.get(name))]
        texts = sum(isinstance(prompt, str) for prompt in given)
        if texts:
            yield (
                f"`{name}` of {count(texts, 'prompts')} is not used: the chat template would write it, and prompts that are plain "
                "text are asked without a template."
            )
        unwritten = sum(not isinstance(prompt, str) and not _is_written(prompt, name, tokenizer) for prompt in given)
        if unwritten:
            yield (
                f"`{name}` of {count(unwritten, 'prompts')} is not used: the model's chat template writes the same text without "
                "it."
            )


def _is_written(prompt: Prompt, name: str, tokenizer: Any) -> bool:
    """Whether the template writes something else than without the variables of this column."""
    kept = {key: value for key, value in variables_of(prompt).items() if (key == "tools") != (name == "tools")}
    return prompt_ids(prompt, tokenizer) != prompt_ids(Conversation(prompt, kept), tokenizer)


def _decoded(value: Any) -> Any:
    """A value that may be JSON in a text, without the `None` that tables have for missing keys; `None` for other texts."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return without_none(value) if isinstance(value, list | dict) else None
