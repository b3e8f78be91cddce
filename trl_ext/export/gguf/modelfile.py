"""Write an Ollama `Modelfile`: the chat template in Go's template language, stop tokens and sampling settings."""

from __future__ import annotations

import json
from typing import Any

from transformers import GenerationConfig

from trl_ext.export.gguf.turns import Turns

SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
"""Ollama's names of sampling settings, by those of transformers."""

PLAIN = "{{ .Prompt }}"
"""The template of a model that was trained on text without a chat template."""


def write(file: str, turns: Turns | None, stops: list[str], config: GenerationConfig) -> str:
    """The text of a Modelfile.

    Args:
        file: Name of the GGUF file beside it.
        turns: The model's chat format; `None` for a model without a chat template.
        stops: Texts of the tokens that end an answer.
        config: Its sampling settings become Ollama's. Settings that it does not have stay Ollama's own defaults.
    """
    lines = [f"FROM ./{file}", f'TEMPLATE """{PLAIN if turns is None else template(turns)}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines += [f"PARAMETER {name} {value:g}" for name, value in sampling(config).items()]
    return "\n".join(lines) + "\n"


def template(turns: Turns) -> str:
    """The prompt in Go's template language, from Ollama's variables `.System` and `.Messages`.

    All text stands in actions, whose neighbours are trimmed, so that line breaks between actions are not part of the prompt.
    """
    start, role = _text(turns.start), "if"
    if turns.system_start is not None and start:
        start = f"{{{{- if not .System }}}}{start}{{{{- end }}}}"
    lines = [start, "{{- range .Messages }}"]
    if turns.system_start is not None:
        lines += [
            f'{{{{- if eq .Role "system" }}}}{_text(turns.system_start)}{{{{- .Content }}}}{_text(turns.system_end)}'
        ]
        role = "else if"
    lines += [
        f'{{{{- {role} eq .Role "user" }}}}{{{{- .Content }}}}',
        f'{{{{- else if eq .Role "assistant" }}}}{_text(turns.answer)}{{{{- .Content }}}}{_text(turns.user)}',
        "{{- end }}",
        "{{- end }}",
        _text(turns.end),
    ]
    return "\n".join(line for line in lines if line)


def sampling(config: GenerationConfig) -> dict[str, float]:
    """The sampling settings that a generation configuration has, by Ollama's names."""
    found = config.to_diff_dict()
    if found.get("do_sample") is False:
        return {"temperature": 0}
    return {ollama: found[name] for name, ollama in SAMPLING.items() if _is_number(found.get(name))}


def stops(tokenizer: Any, config: GenerationConfig) -> list[str]:
    """Texts of the tokens that end an answer: the tokenizer's end token, and those of the generation configuration."""
    own = config.eos_token_id
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return tokenizer.convert_ids_to_tokens([token for token in dict.fromkeys(ids) if token is not None])


def _text(text: str) -> str:
    """An action that writes a text. A JSON string is a string in Go, too."""
    return f"{{{{- {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
