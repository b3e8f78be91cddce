"""Read the file of a recipe, with the line of every key."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trl_ext.recipe import names
from trl_ext.support.errors import UserError
from trl_ext.support.messages import joined, shown_text
from trl_ext.support.yaml_text import load, parse, write

__all__ = ["Document", "parse", "read", "write"]


@dataclass
class Document:
    """A recipe file as written.

    Attributes:
        values: The top-level mapping.
        lines: Line (from 1) of each key, by its path: ``("variants", "ipo", "beta")``.
        problems: Sentences about the file itself (repeated keys).
    """

    values: dict[str, Any]
    lines: dict[tuple[str, ...], int]
    problems: list[str]


def read(path: str | Path) -> Document:
    """Read a recipe file. UserError if it does not exist, is not YAML, or is not a mapping."""
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError:
        raise UserError(_missing(path)) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8. Give a recipe in YAML.") from None
    try:
        values, lines, problems = load(text, keys_are_text=True)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {_syntax(error, text)}") from None
    if values is None:
        raise UserError(f"{path} is empty. A recipe names at least a model and a dataset.")
    if not isinstance(values, dict):
        raise UserError(f"{path} has no `key: value` lines. Write one setting per line, with a space after the colon.")
    return Document(values, lines, problems)


def _missing(path: Path) -> str:
    if path.is_dir():
        found = sorted(str(file) for file in path.glob("*.y*ml"))
        return f"{path} is a folder. Give a recipe file" + (f", for instance {found[0]}." if found else ".")
    folder = path.parent if path.parent.is_dir() else Path()
    candidates = {file.name: file for place in (folder, Path("recipes")) for file in place.glob("*.y*ml")}
    stems = {file.stem: file for file in candidates.values()}
    if not path.suffix and (alike := names.near(path)):
        return (
            f"There is no recipe {path}. Did you mean {joined(alike, 'or')}? `trl-ext recipes` lists the recipes that come with "
            "trl-ext."
        )
    near = difflib.get_close_matches(path.name, candidates, n=1) or difflib.get_close_matches(path.stem, stems, n=1)
    if near:
        return f"There is no recipe {path}. Did you mean {(candidates | stems)[near[0]]}?"
    if alike := names.near(path):
        return f"There is no file {path}. Did you mean the recipe {alike[0]}, which comes with trl-ext? Give its name alone."
    here = ", ".join(sorted(str(file) for file in candidates.values()))
    found = f"Recipes found: {here}." if here else "Give a YAML file or a name that `trl-ext recipes` lists."
    return f"There is no recipe {path}. {found}"


def _syntax(error: yaml.YAMLError, text: str) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
    line = None if mark is None else mark.line + 1
    if isinstance(error, yaml.reader.ReaderError):
        line, problem = text[: error.position].count("\n") + 1, f"it has the character {chr(error.character)!a}"
    remedy = "Indent with spaces, not tabs." if r"'\t'" in problem else "Write one `key: value` per line."
    place = "not YAML" if line is None else f"line {line} is not YAML"
    return f"{place} ({shown_text(problem)}). {remedy}"
