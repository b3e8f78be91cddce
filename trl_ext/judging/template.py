"""The text that a judge reads: a template file with the prompt and the two answers put in.

The template that comes with trl-ext is `pairwise.txt`. People can replace it by a file of their own.
"""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Self

from trl_ext.checks import judge_template
from trl_ext.checks.judge_template import FIRST, PLACEHOLDERS, SECOND
from trl_ext.judging.judge import Prompt, Question, variables_of
from trl_ext.support.errors import UserError

SHIPPED = "pairwise.txt"
_PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS)))


class Template(NamedTuple):
    """The text of a template with `{prompt}`, `{first}` and `{second}`. Other braces in it are plain text."""

    text: str

    @classmethod
    def load(cls, path: Path | str | None = None, *, needs_marks: bool = True) -> Self:
        """Read a template file; without a path the one that comes with trl-ext.

        Args:
            path: The file.
            needs_marks: Whether it has to ask for the verdict's marks, as one for an API has to.

        Raises:
            UserError: The file cannot be read, lacks a placeholder, or does not ask for marks that are needed.
        """
        if path is None:
            return cls(resources.files("trl_ext.judging").joinpath(SHIPPED).read_text(encoding="utf-8"))
        path = Path(path).expanduser()
        try:
            return cls(judge_template.read(path, needs_marks=needs_marks))
        except ValueError as error:
            raise UserError(f"The judge's template {path} {error}") from None

    @property
    def marks(self) -> tuple[str, str] | None:
        """The marks of both verdicts if the template asks for them; else it asks for the letters A and B."""
        return (FIRST, SECOND) if FIRST in self.text and SECOND in self.text else None

    def render(self, question: Question) -> str:
        """The text with prompt and answers put in. Braces in these are never read as placeholders."""
        values = {
            "{prompt}": prompt_text(question.prompt),
            "{first}": question.first.strip(),
            "{second}": question.second.strip(),
        }
        return _PLACEHOLDER.sub(lambda found: values[found.group()], self.text)


def prompt_text(prompt: Prompt) -> str:
    """A prompt as a judge reads it: a conversation with a heading per message, a single message of the user without.

    Tools that the answer may call, and calls in messages, are written as JSON.
    """
    if isinstance(prompt, str):
        return prompt.strip()
    tools = variables_of(prompt).get("tools")
    if not tools and [message["role"] for message in prompt] == ["user"]:
        return _content(prompt[0])
    parts = [("Tools", json.dumps(tools, ensure_ascii=False))] if tools else []
    parts += [(message["role"].capitalize(), _content(message)) for message in prompt]
    return "\n\n".join(f"[{heading}]\n{text}" for heading, text in parts)


def _content(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls")
    return "\n".join([message["content"].strip(), *([json.dumps(calls, ensure_ascii=False)] if calls else [])]).strip()
