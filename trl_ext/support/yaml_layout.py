"""Find how a YAML file is laid out: the lines of each top-level setting, and the comments around it."""

from dataclasses import dataclass

import yaml


@dataclass(frozen=True)
class Lines:
    """The lines of one top-level setting.

    Attributes:
        own: Its lines as written, from its key to the end of its value.
        before: Empty lines and comments between it and the setting before it.
        remark: The comment behind a value on one line, without its `#`.
    """

    own: tuple[str, ...]
    before: tuple[str, ...] = ()
    remark: str = ""


def layout(text: str) -> dict[str, Lines]:
    """The lines of each top-level setting of a YAML mapping; empty if they cannot be taken one by one.

    That is so for a mapping in braces, and for anchors and merge keys, whose lines depend on others.
    """
    try:
        if any(isinstance(token, (yaml.AnchorToken, yaml.AliasToken)) for token in yaml.scan(text, yaml.SafeLoader)):
            return {}
        root = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return {}
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return {}
    lines = text.splitlines()
    starts = [key.start_mark.line for key, _ in root.value]
    found: dict[str, Lines] = {}
    end = 0
    for (key, value), start, limit in zip(root.value, starts, [*starts[1:], len(lines)], strict=True):
        before, end = lines[end:start], limit
        while end > start + 1 and _is_between(lines[end - 1]):
            end -= 1
        found[str(key.value)] = Lines(tuple(lines[start:end]), tuple(before), _remark(value, lines, start))
    return found


def _is_between(line: str) -> bool:
    """Whether a line belongs to no setting: an empty one, a comment, or the end of the document."""
    return not line.strip() or line.lstrip().startswith("#") or line.rstrip() in ("---", "...")


def _remark(value: yaml.Node, lines: list[str], line: int) -> str:
    if value.end_mark.line != line:
        return ""
    rest = lines[line][value.end_mark.column :].strip()
    return rest.removeprefix("#").strip() if rest.startswith("#") else ""
