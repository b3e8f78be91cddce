"""Write a recipe as YAML with comments."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any

from trl_ext.recipe import reader

WIDTH = 110


@dataclass
class Section:
    """Some settings with comments.

    Attributes:
        about: Sentences above the settings.
        settings: Values by key.
        remarks: Comments behind values, by key.
    """

    about: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, value: Any, remark: str = "") -> None:
        """Add a setting."""
        self.settings[key] = value
        if remark:
            self.remarks[key] = remark

    def lines(self) -> list[str]:
        """The section as lines of YAML."""
        found = comment(self.about)
        for key, value in self.settings.items():
            line, remark = f"{key}: {scalar(value)}", self.remarks.get(key, "")
            if remark and len(line) + len(remark) + 4 > WIDTH:
                found += comment([remark])
                remark = ""
            found.append(f"{line}  # {remark}" if remark else line)
        return found


def comment(sentences: list[str]) -> list[str]:
    """Sentences as lines of a comment, each beginning on a line of its own."""
    return [
        f"# {line}"
        for sentence in sentences
        for line in textwrap.wrap(_printable(sentence), WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    ]


def scalar(value: Any) -> str:
    """A value on one line, as people write it: `5e-6`, not `5.0e-06`."""
    if isinstance(value, float) and value and (abs(value) < 1e-2 or abs(value) >= 1e6):
        digits, exponent = f"{value:e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return reader.write(value, flow=True).removesuffix("...\n").strip()


def text(head: list[str], sections: list[Section]) -> str:
    """The whole file: a header, and the sections that have settings."""
    parts = ["\n".join(head), *("\n".join(section.lines()) for section in sections if section.settings)]
    return "\n\n".join(parts) + "\n"


def _printable(sentence: str) -> str:
    return "".join(c if c.isprintable() else " " for c in sentence)
