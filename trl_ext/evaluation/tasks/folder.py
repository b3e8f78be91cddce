"""Read task files of the user's own: which tasks they define, and where their data is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval.tasks._index import Entry, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

from trl_ext.checks.task_names import ENDING
from trl_ext.support import messages
from trl_ext.support.errors import UserError


def entries_of(path: Path) -> dict[str, Entry]:
    """Tasks, groups and tags that a task file, or the files in a folder, define, by name.

    The harness skips files that it cannot read and names that come twice. Here they are errors. Data files with relative paths
    are looked for in the current folder, as the harness does, and then beside the task file.

    Raises:
        UserError: A file cannot be read, a name comes twice, or there is no task.
    """
    files = [path] if path.is_file() else sorted(path.rglob(f"*{ENDING}"))
    entries: dict[str, Entry] = {}
    places: dict[str, Path] = {}
    for file in files:
        config = _read(file)
        name = config.get("task") if isinstance(config.get("task"), str) else config.get("group")
        if not isinstance(name, str):
            continue  # other files include it
        if name in places:
            raise UserError(f"{places[name]} and {file} both define the task {name}. Rename one of them.")
        places[name] = file
        TaskIndex.process_cfg(config, file, entries)
    if not entries:
        raise UserError(_no_task(path, files))
    for entry in entries.values():
        if entry.yaml_path is not None:
            entry.cfg, entry.yaml_path = _with_data(entry.yaml_path), None
    return entries


def outermost(entries: dict[str, Entry]) -> list[str]:
    """The tasks and groups that are part of no other group among the entries."""
    inner = {member for entry in entries.values() for member in members(entry)}
    inner |= {name for member in inner if member in entries for name in entries[member].tags}
    return [name for name, entry in entries.items() if entry.cfg is not None and name not in inner]


def members(entry: Entry) -> list[str]:
    """The names that a group lists; none for a task."""
    return _listed(entry.cfg or {})


def _listed(config: dict[str, Any]) -> list[str]:
    """The names in the list of a group, also in groups that are written out inside it."""
    listed = config["task"] if isinstance(config.get("task"), list) else []
    names = [each for each in listed if isinstance(each, str)]
    for each in listed:
        if isinstance(each, dict):
            own = each.get("task", each.get("group"))
            names += [own] if isinstance(own, str) else []
            names += _listed(each)
    return names


def _read(file: Path) -> dict[str, Any]:
    try:
        return load_yaml(file, resolve_func=False)
    except Exception as error:  # YAML's, those of missing includes, and the harness' own
        raise UserError(f"The task file {file} cannot be read: {first_line(error)}. Correct it.") from error


def _with_data(file: Path) -> dict[str, Any]:
    """The file's configuration with its functions, and with paths that the harness finds."""
    try:
        config = load_yaml(file, resolve_func=True)
    except Exception as error:  # whatever its Python files raise
        raise UserError(f"The task file {file} cannot be read: {first_line(error)}. Correct it.") from error
    if config.get("dataset_path") is not None:
        config["dataset_path"] = _found(config["dataset_path"], file.parent)
    options = config.get("dataset_kwargs")
    for key in ("data_files", "data_dir"):
        if isinstance(options, dict) and key in options:
            options[key] = _found(options[key], file.parent)
    return config


def _found(value: Any, folder: Path) -> Any:
    """A path, or the paths in a list or mapping; relative ones that exist only in the folder are made absolute."""
    if isinstance(value, dict):
        return {key: _found(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_found(each, folder) for each in value]
    if not isinstance(value, str) or not value or Path(value).exists():
        return value
    there = folder / value
    exists = there.exists() or ("*" in value and any(folder.glob(value)))
    return str(there.resolve()) if exists else value


def _no_task(path: Path, files: list[Path]) -> str:
    if path.is_file():
        return f"{path} defines no task: it has no key `task`. Give a task file of lm-evaluation-harness."
    others = sorted(path.rglob("*.yml"))
    if files:
        return f"No file in the folder {path} defines a task: none of its {ENDING} files has the key `task`."
    hint = f" Rename {others[0].name} to {others[0].stem}{ENDING}." if others else ""
    return f"The folder {path} has no task files: no file in it ends in {ENDING}.{hint}"


def first_line(error: Exception) -> str:
    """What an error says in one line, without a full stop: for YAML's errors the problem and its line."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"{error.problem} in line {mark.line + 1}"
    text = str(error).strip() or type(error).__name__
    return messages.shown_text(text.splitlines()[0]).rstrip(".")
