"""Read and write YAML as recipes need it: `5e-6` is a number, a repeated key is a problem, every key has its line."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trl_ext.recipe import names
from trl_ext.support.errors import UserError
from trl_ext.support.messages import shown_text


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
        values, lines, problems = _load(text, keys_are_text=True)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {_syntax(error, text)}") from None
    if values is None:
        raise UserError(f"{path} is empty. A recipe names at least a model and a dataset.")
    if not isinstance(values, dict):
        raise UserError(f"{path} has no `key: value` lines. Write one setting per line, with a space after the colon.")
    return Document(values, lines, problems)


def parse(text: str) -> Any:
    """Parse one value or a whole document as `read` does. yaml.YAMLError if it is not YAML."""
    return _load(text)[0]


def write(value: Any, *, flow: bool = False) -> str:
    """Write a value as YAML that `parse` reads back unchanged; on one line if `flow`."""
    width = 10_000 if flow else 110
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=flow, width=width, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


# YAML 1.1, which PyYAML follows, wants a dot in the mantissa and a sign in the exponent: 5e-6 would be text.
# The dumper is told too, so that it puts a text that looks like such a number in quotes.
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )
# Nothing in a recipe is a date: `run_name: 2025-01-31` is text.
for _first, _resolvers in _Loader.yaml_implicit_resolvers.items():
    _Loader.yaml_implicit_resolvers[_first] = [(t, r) for t, r in _resolvers if not t.endswith(":timestamp")]


def _load(text: str, *, keys_are_text: bool = False) -> tuple[Any, dict[tuple[str, ...], int], list[str]]:
    """A document, its lines and its problems; with `keys_are_text`, top-level keys stay text: `no`, `5e-6`.

    Raises:
        yaml.YAMLError: It is not YAML, or not a value that a recipe can have.
    """
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if keys_are_text and isinstance(root, yaml.MappingNode):
            for key, _ in root.value:
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    key.tag = "tag:yaml.org,2002:str"
        lines, problems = _keys(root)  # before merge keys are resolved, which puts their mappings in place of them
        return None if root is None else loader.construct_document(root), lines, problems
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:  # `!!int x`, `0x_`: PyYAML lets these through
        raise yaml.YAMLError(f"a value does not match its tag, {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _keys(root: yaml.Node | None) -> tuple[dict[tuple[str, ...], int], list[str]]:
    """Lines of all keys, and a sentence for each key given twice in one mapping."""
    lines: dict[tuple[str, ...], int] = {}
    problems: list[str] = []
    seen: set[int] = set()  # an alias leads to the same node again, perhaps inside itself

    def visit(node: yaml.Node, path: tuple[str, ...]) -> None:
        if id(node) in seen:
            return
        if isinstance(node, yaml.CollectionNode):
            seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, entry in enumerate(node.value):
                visit(entry, (*path, str(index)))
        if not isinstance(node, yaml.MappingNode):
            return
        first: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in first and key.value != "<<":
                name = ".".join([*path, key.value])
                problems.append(
                    f"`{shown_text(name)}` is given twice, on lines {first[key.value]} and {line}: keep one of them."
                )
            first.setdefault(key.value, line)
            lines[*path, key.value] = line
            visit(value, (*path, key.value))

    if root is not None:
        visit(root, ())
    return lines, problems


def _missing(path: Path) -> str:
    if path.is_dir():
        found = sorted(str(file) for file in path.glob("*.y*ml"))
        return f"{path} is a folder. Give a recipe file" + (f", for instance {found[0]}." if found else ".")
    folder = path.parent if path.parent.is_dir() else Path()
    candidates = {file.name: file for place in (folder, Path("recipes")) for file in place.glob("*.y*ml")}
    stems = {file.stem: file for file in candidates.values()}
    if not path.suffix and (alike := names.near(path)):
        return (
            f"There is no recipe {path}. Did you mean {' or '.join(alike)}? `trl-ext recipes` lists the recipes that come with "
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
