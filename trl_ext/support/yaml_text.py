"""Read and write YAML as recipes need it: `5e-6` is a number, dates are text, a repeated key is a problem, every key has its line."""

import re
from typing import Any

import yaml

from trl_ext.support.messages import shown_text

LONGEST_LINE = 500
"""Characters of the longest setting that a sentence repeats."""


def parse(text: str) -> Any:
    """Parse one value or a whole document. yaml.YAMLError if it is not YAML."""
    return load(text)[0]


def write(value: Any, *, flow: bool = False) -> str:
    """Write a value as YAML that `parse` reads back unchanged; on one line if `flow`."""
    width = 10_000 if flow else 110
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=flow, width=width, sort_keys=False, allow_unicode=True)


def line(key: str, value: Any) -> str:
    """``key: value`` as one line of YAML in backquotes, without the value if that needs several lines."""
    flow = write({key: value}, flow=True).strip()[1:-1]
    return f"`{flow}`" if "\n" not in flow and len(flow) <= LONGEST_LINE else f"`{key}: …`"


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


def load(text: str, *, keys_are_text: bool = False) -> tuple[Any, dict[tuple[str, ...], int], list[str]]:
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
