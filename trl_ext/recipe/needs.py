"""Find out what has to be done before a recipe whose files or folders are missing: its head and its place say so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trl_ext.checks.reward_names import parse
from trl_ext.data.files.names import is_data_file
from trl_ext.recipe import names
from trl_ext.support.messages import joined
from trl_ext.support.paths import is_path

COMMAND = re.compile(r"# ((?:make|trl-ext|hf|pip|python) [^(]+?) *(\([^()]*\))?")
"""A line of a recipe's head with a command, and perhaps a remark in brackets."""


def in_words(recipe: Path, values: Mapping[str, Any]) -> str:
    """Sentences about what to do first; empty if nothing is missing or nothing is known.

    The head of a recipe may name commands above the line `# trl-ext run …`: they make what the recipe needs. A recipe that
    comes with trl-ext may read files of trl-ext's repository, by paths that begin at its folder.

    Args:
        recipe: The file.
        values: Its settings.
    """
    root = names.FOLDER.parent
    checkout = str(root) if (root / "Makefile").is_file() else "a checkout of trl-ext"
    is_shipped = recipe.resolve().parent == names.FOLDER.resolve()
    is_elsewhere = is_shipped and Path.cwd() != root
    absent = [*_absent(values)]
    of_checkout = [path for path in absent if is_shipped and not Path(path).is_absolute()]
    sentences = []
    if len(absent) > len(of_checkout):
        place = f" in {checkout}" if is_elsewhere else ""
        sentences = [f"First run `{command}`{place}{remark}." for command, remark in _commands(recipe)]
    if of_checkout and is_elsewhere:
        are = "is" if len(of_checkout) == 1 else "are"
        sentences.append(f"{joined(of_checkout)} {are} in {checkout}: run the recipe there.")
    return " ".join(sentences)


def _absent(values: Mapping[str, Any]) -> Iterator[str]:
    """The files and folders that the model, the data and the reward functions are read from and that do not exist."""
    model, data, functions = (values.get(key) for key in ("model_name_or_path", "dataset_name", "reward_funcs"))
    paths = [name for name in (model, data) if isinstance(name, str) and (is_path(name) or is_data_file(name))]
    named = [parse(name) for name in functions or [] if isinstance(name, str)]
    paths += [source.place for source in named if source.kind == "file"]
    return (path for path in paths if not Path(path).expanduser().exists())


def _commands(recipe: Path) -> Iterator[tuple[str, str]]:
    """The commands above `# trl-ext run` in the head of a recipe, each with its remark in brackets, or ""."""
    head = re.match(r"(?:#.*\n)*?(?=# trl-ext run\b)", recipe.read_text(encoding="utf-8-sig"))
    for line in head[0].splitlines() if head else []:
        if found := COMMAND.fullmatch(line):
            yield found[1], f" {found[2]}" if found[2] else ""
