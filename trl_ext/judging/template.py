"""The text that a judge reads: a template file with the prompt and the two answers put in.

The template that comes with trl-ext is `pairwise.txt`. People can replace it by a file of their own.
"""

import re
from importlib import resources
from pathlib import Path
from typing import NamedTuple, Self

from trl_ext.judging.judge import Prompt, Question, Verdict
from trl_ext.judging.mark import MARKS
from trl_ext.support.errors import UserError
from trl_ext.support.messages import joined

PLACEHOLDERS = ("{prompt}", "{first}", "{second}")
SHIPPED = "pairwise.txt"
NEEDED = tuple(mark for mark, verdict in MARKS.items() if verdict is not Verdict.TIE)
"""The marks that a template for an API asks for; that of a tie may be left out."""

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
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"The judge's template {path} is not a text in UTF-8. Save it as UTF-8.") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"The judge's template {path} cannot be read ({reason}). Check the path.") from None
        if lacking := lacks(text, needs_marks):
            raise UserError(f"The judge's template {path} {lacking}")
        return cls(text)

    @property
    def marks(self) -> tuple[str, str] | None:
        """The marks of both verdicts if the template asks for them; else it asks for the letters A and B."""
        return NEEDED if all(mark in self.text for mark in NEEDED) else None

    def render(self, question: Question) -> str:
        """The text with prompt and answers put in. Braces in these are never read as placeholders."""
        values = {
            "{prompt}": prompt_text(question.prompt),
            "{first}": question.first.strip(),
            "{second}": question.second.strip(),
        }
        return _PLACEHOLDER.sub(lambda found: values[found.group()], self.text)


def lacks(text: str, needs_marks: bool = True) -> str:
    """What a template lacks, as the rest of a sentence about it; empty if it lacks nothing."""
    if absent := [placeholder for placeholder in PLACEHOLDERS if placeholder not in text]:
        return f"lacks {joined(absent)}. A template needs {joined(list(PLACEHOLDERS))}, once or more each."
    if absent := [mark for mark in NEEDED if mark not in text and needs_marks]:
        return (
            f"does not ask for {joined(absent)}. A verdict is read from {', '.join(MARKS)} at the end of the judge's reply: "
            "name these marks in the template ([[TIE]] only if ties are allowed)."
        )
    return ""


def prompt_text(prompt: Prompt) -> str:
    """A prompt as a judge reads it: a conversation with a heading per message, a single message of the user without."""
    if isinstance(prompt, str):
        return prompt.strip()
    if [message["role"] for message in prompt] == ["user"]:
        return prompt[0]["content"].strip()
    return "\n\n".join(f"[{message['role'].capitalize()}]\n{message['content'].strip()}" for message in prompt)
