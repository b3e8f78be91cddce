"""Write a converted recipe as YAML: the order and comments of the file, and a comment at every line that means something else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trl_ext.drafting.conversion import Conversion, Left, Line
from trl_ext.drafting.page import WIDTH, comment, scalar
from trl_ext.recipe import reader
from trl_ext.support.yaml_layout import Lines


def text(made: Conversion, path: Path, layout: Mapping[str, Lines]) -> str:
    """The recipe as text.

    Args:
        made: The converted settings.
        path: The file that they are from.
        layout: The lines of each key of that file.
    """
    program = made.dialect.name if made.dialect else "TRL"
    found = [f"# {path.name} as a recipe, written by `trl-ext convert`. It was written for {program}."]
    for key, line in made.settings.items():
        if line.key not in layout:
            found += _setting(key, line, "")
    found += _in_order(made, layout)
    if made.defaults:
        found += ["", f"# Defaults of {program} that differ from those of trl-ext."]
        for key, line in made.defaults.items():
            found += _setting(key, line, "")
    matters = [left for left in made.left if left.matters]
    others = [left for left in made.left if not left.matters]
    found += _list("No counterpart here:", matters) + _list("Left out, without effect on training:", others)
    return "\n".join(found).rstrip() + "\n"


def _in_order(made: Conversion, layout: Mapping[str, Lines]) -> list[str]:
    """The settings that the file gives, in its order, with its comments and empty lines between them."""
    found: list[str] = []
    between: list[str] = []  # of keys that are left out too
    for source, lines in layout.items():
        given = {key: line for key, line in made.settings.items() if line.key == source}
        between += lines.before
        for key, line in given.items():
            found += _without_doubled_gaps(between)
            between.clear()
            found += lines.own if line.is_unchanged and lines.own else _setting(key, line, lines.remark)
    return found


def _without_doubled_gaps(lines: list[str]) -> list[str]:
    """The lines without empty ones that follow an empty one."""
    return [line for number, line in enumerate(lines) if line.strip() or not number or lines[number - 1].strip()]


def _setting(key: str, line: Line, remark: str) -> list[str]:
    """A setting with the comments on it, behind it if there is space."""
    origin = f"{line.source}." if line.source and line.source != key else ""
    about = " ".join(filter(None, [origin, line.why, remark])) if line.why or remark else origin.removesuffix(".")
    one = f"{key}: {scalar(line.value)}"
    if len(one) > WIDTH and isinstance(line.value, (dict, list)):
        return comment([about] if about else []) + reader.write({key: line.value}).splitlines()
    if about and len(one) + len(about) + 4 <= WIDTH:
        return [f"{one}  # {about}"]
    return [*comment([about] if about else []), one]


def _list(title: str, left: list[Left]) -> list[str]:
    if not left:
        return []
    whys: dict[str, list[str]] = {}
    for item in left:
        whys.setdefault(item.why, []).append(item.key)
    entries = [line for why, keys in whys.items() for line in _entry(keys, why)]
    return ["", f"# {title}", *entries]


def _entry(keys: list[str], why: str) -> list[str]:
    if len(keys) > 1 and why.startswith("It is "):
        why = f"They are {why.removeprefix('It is ')}"
    first, *others = comment([f"{', '.join(keys)}: {why}"])
    return [f"#   {first.removeprefix('# ')}", *(f"#     {line.removeprefix('# ')}" for line in others)]
