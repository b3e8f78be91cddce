"""Find which tasks, groups and tags the installed lm-evaluation-harness defines, from the text of its files.

The harness is not imported, and its own index takes twenty seconds: it parses 14,000 files of YAML. This takes about a second. A few
names may be found that the index does not have, such as those of files that the harness skips; none is missing.
"""

import importlib.util
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import yaml

from trl_ext.checks import packages
from trl_ext.support import messages

PACKAGE = "lm_eval"

NO_TASKS = {".py", ".pyc", ".md", ".json", ".txt", ".sh"}
"""Endings of files that define no task. Files that others include may have any other ending, or none."""

LARGEST = 2**18
"""Bytes of a file that is read. A folder that the user names may hold data and weights too."""

DEFINITION = re.compile(
    r"""^["']?(?P<key>task|group|tag)["']?[ \t]*:(?P<value>.*(?:\n[ \t]*-.*|\n[ \t]+.*|\n[ \t]*#.*)*)""", re.MULTILINE
)
"""A key at the beginning of a line, and its value with the lines that belong to it."""


def problem(name: str, places: Iterable[Path] = ()) -> str | None:
    """The end of a sentence about the name or pattern of a task that is not there.

    Args:
        name: As a flag or a recipe gives it.
        places: Files and folders of the user's own tasks.

    Returns:
        `None` if there is one, or if the harness is not installed.
    """
    if not packages.is_installed(PACKAGE):
        return None
    known = of_harness().union(*map(in_folder, places))
    if any(fnmatchcase(each, name) for each in known):
        return None
    return f"names {messages.shown_text(name)}, and there is no such task: {hint(name, known)}"


def hint(name: str, known: Iterable[str]) -> str:
    """Similar names, or how to find them."""
    near = messages.nearest(name, sorted(known))
    if near:
        return f"did you mean {messages.joined(near, 'or')}?"
    return "`lm_eval ls tasks` lists those of lm-evaluation-harness. A folder of task files can be given instead."


def of_harness() -> frozenset[str]:
    """The names that the installed harness defines."""
    return in_folder(Path(importlib.util.find_spec(PACKAGE).submodule_search_locations[0], "tasks"))


@lru_cache
def in_folder(folder: Path) -> frozenset[str]:
    """The names that the files of a folder, or one file, define."""
    files = [folder] if folder.is_file() else folder.rglob("*")
    return frozenset(name for file in files if file.suffix not in NO_TASKS for name in _defined(_text(file)))


def _text(file: Path) -> str:
    try:
        is_read = file.is_file() and file.stat().st_size <= LARGEST
        return file.read_text(encoding="utf-8", errors="replace") if is_read else ""
    except OSError:
        return ""


def _defined(text: str) -> Iterator[str]:
    for match in DEFINITION.finditer(text):
        key, value = match["key"], match["value"]
        first = value.partition("\n")[0].partition(" #")[0].strip()
        if first and not first.startswith("["):
            yield first.strip("\"'")
        elif key != "task":  # a list is the members of a group
            yield from _listed(value)


def _listed(value: str) -> list[str]:
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        return []
    return [str(each) for each in found] if isinstance(found, list) else []
