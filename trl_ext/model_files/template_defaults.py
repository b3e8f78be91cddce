"""Write the variables of a recipe's `chat_template_kwargs` into a chat template, as defaults.

A chat template is a program that reads variables, for instance `enable_thinking`. The defaults stand in its first line, so
whatever writes conversations with the template reads them: training, evaluation, chat, and every program that serves the saved
model. A variable that is passed to `apply_chat_template`, or that a row of the data has, replaces its default.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MARK = "{# chat_template_kwargs #}"
"""Begins the line with the defaults."""
GIVEN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token"}
)
"""Variables that a conversation or its tokenizer gives."""


def with_defaults(template: str, variables: Mapping[str, Any] | None) -> str:
    """A template with these defaults, in place of those that it had.

    Args:
        template: In Jinja.
        variables: Values of JSON by name; `None` or empty leaves the template unchanged.
    """
    return line_of(variables) + split(template)[1] if variables else template


def line_of(variables: Mapping[str, Any]) -> str:
    """The line of a template that sets the defaults."""
    # `none` is what tables hold for a key that only other rows have.
    settings = (
        f"{{% if {name} is not defined or {name} is none %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}"
        for name, value in variables.items()
    )
    # Jinja removes the line's end after a block, and white space in front of a block that begins a line.
    return f"{MARK}{''.join(settings)}\n"


def split(template: str) -> tuple[str, str]:
    """(the line with the defaults or nothing, the rest of the template)."""
    if not template.startswith(MARK):
        return "", template
    line, end, rest = template.partition("\n")
    return line + end, rest


def set_defaults(processing_class: Any, variables: Mapping[str, Any] | None) -> None:
    """Put defaults into all chat templates of a tokenizer, or of a processor and its tokenizer, in place of those that were there."""
    if variables:
        put_line(processing_class, line_of(variables))


def get_line(processing_class: Any) -> str:
    """The line with the defaults of a tokenizer or processor; empty without any."""
    return next((split(text)[0] for holder in _holders(processing_class) for text in _texts(holder)), "")


def put_line(processing_class: Any, line: str) -> None:
    """Replace the line with the defaults in all chat templates of a tokenizer or processor; an empty one removes it."""
    for holder in _holders(processing_class):
        if isinstance(holder.chat_template, dict):
            holder.chat_template = {name: line + split(text)[1] for name, text in holder.chat_template.items()}
        else:
            holder.chat_template = line + split(holder.chat_template)[1]


def _holders(processing_class: Any) -> list[Any]:
    """Those of a processor and its tokenizer that have a chat template."""
    found = (processing_class, getattr(processing_class, "tokenizer", None))
    return [holder for holder in found if getattr(holder, "chat_template", None)]


def _texts(holder: Any) -> list[str]:
    return list(holder.chat_template.values()) if isinstance(holder.chat_template, dict) else [holder.chat_template]


def variables_of(template: str) -> set[str]:
    """The variables that a template reads and does not only set itself, without those of `GIVEN`.

    Raises:
        jinja2.TemplateError: It is no template.
    """
    from jinja2 import meta, nodes

    from trl_ext.model_files.chat_template import environment

    tree = environment().parse(split(template)[1])
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    guards = [*(test for test in tree.find_all(nodes.Test) if test.name == "defined")]
    guards += (filtered for filtered in tree.find_all(nodes.Filter) if filtered.name in ("default", "d"))
    asked_for = {guard.node.name for guard in guards if isinstance(guard.node, nodes.Name)}
    read = meta.find_undeclared_variables(tree) - GIVEN - environment().globals.keys()
    return (read - own) | (read & asked_for)


def is_name(text: Any) -> bool:
    """Whether a template can read a variable of this name."""
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) is not None


def is_value(value: Any) -> bool:
    """Whether this is a value of JSON other than null, which means that nothing was given."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_value, value.values()))
    return all(map(is_value, value)) if isinstance(value, list) else isinstance(value, bool | int | float | str)


def _literal(value: Any) -> str:
    """A value of JSON as Jinja writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value, ensure_ascii=False)  # Jinja reads JSON's true, false, numbers and texts
