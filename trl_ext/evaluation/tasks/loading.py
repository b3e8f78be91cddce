"""Load tasks of the harness with their data, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry

from trl_ext.checks import known_tasks
from trl_ext.evaluation.tasks import harness
from trl_ext.evaluation.tasks.choice import TaskChoice
from trl_ext.evaluation.tasks.data import require_data
from trl_ext.evaluation.tasks.folder import ENDING, entries_of, first_line, members, outermost
from trl_ext.support.errors import UserError

SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
"""Keys of a task file."""


class Row(NamedTuple):
    """One line of the results.

    Attributes:
        name: Of a task, or of a group that has a result of its own.
        group: `None` for a task.
        tasks: The task, or all tasks of the group, by name.
    """

    name: str
    group: Group | None
    tasks: dict[str, Task]


def load_tasks(choice: TaskChoice, log: Callable[[str], None]) -> list[Row]:
    """Load the chosen tasks. A task that belongs to two rows is the same object in both.

    Args:
        choice: The tasks, and how they are measured.
        log: Called with each message for the user.

    Raises:
        UserError: There is no such task, it cannot be loaded, or it is of a kind that cannot be measured here.
    """
    with harness.silenced():
        entries, names = _find(choice.names, log)
        require_data([entry for name in names for entry in _tasks_in(name, entries)])
        manager = TaskManager(include_defaults=False)
        manager.task_index.update(entries)
        rows = {row.name: row for name in names for row in _rows(name, manager)}
        tasks: dict[str, Task] = {}
        for row in rows.values():
            for name, task in row.tasks.items():
                _check(name, task)
                row.tasks[name] = tasks.setdefault(name, task)
        for task in tasks.values():
            _set_num_fewshot(task, choice.num_fewshot)
    return list(rows.values())


def _find(given: tuple[str, ...], log: Callable[[str], None]) -> tuple[dict[str, Entry], list[str]]:
    """All tasks, groups and tags that may be needed, and the names of those that were asked for."""
    paths = [path for path in map(_path, given) if path is not None]
    names = [name for name in given if _path(name) is None]
    own: dict[str, Entry] = {}
    asked: list[str] = []
    for path in paths:
        found = entries_of(path)
        own |= found
        asked += outermost(found)
    if names or any(member not in own for entry in own.values() for member in members(entry)):
        log("reading the list of tasks of lm-evaluation-harness …")
        own = {**TaskManager().task_index, **own}
    problems = []
    for name in names:
        matching = [known for known in sorted(own) if fnmatchcase(known, name)]
        asked += matching
        problems += [] if matching else [f"There is no task {name!r}: {known_tasks.hint(name, own)}"]
    if problems:
        raise UserError(problems, about="the tasks" if len(problems) > 1 else "")
    return own, list(dict.fromkeys(asked))


def _path(name: str) -> Path | None:
    """The file or folder that a name stands for; `None` for the name of a task."""
    path = Path(name).expanduser()
    if path.is_dir() and any(path.rglob(f"*{ENDING}")):
        return path
    if "/" not in name and path.suffix not in (ENDING, ".yml") and not path.is_dir():
        return None
    if not path.exists():
        raise UserError(f"There is no task file or folder {name}. Check the path, or give the name of a task.")
    if path.is_file() and path.suffix != ENDING:
        raise UserError(f"{name} is not a task file: the harness reads files that end in {ENDING}.")
    return path


def _tasks_in(name: str, entries: dict[str, Entry]) -> list[Entry]:
    """The tasks that a name stands for, as far as the entries tell: all of a group or tag."""
    entry = entries.get(name)
    if entry is None:
        return []
    inner = [*members(entry), *(sorted(entry.tags) if entry.cfg is None else [])]
    return [task for each in inner if each != name for task in _tasks_in(each, entries)] or [entry]


def _rows(name: str, manager: TaskManager) -> list[Row]:
    try:
        loaded = manager.load([name])
    except Exception as error:  # the task's own code, and that of its data
        config = manager.task_index[name].cfg or {}
        raise UserError(f"The task {name} cannot be loaded: {_reason(error, config)}") from error
    if name in loaded["groups"]:
        return _of_group(loaded["groups"][name])
    return [Row(each, None, {each: task}) for each, task in loaded["tasks"].items()]


def _reason(error: Exception, config: dict[str, Any]) -> str:
    """Why a task cannot be loaded, and what to do."""
    if isinstance(error, ImportError):
        return f"it needs a package that is not installed ({first_line(error)}). Install it, or leave the task out."
    if isinstance(error, FileNotFoundError):
        return f"{first_line(error)}. Paths of data are relative to the current folder or to that of the task file."
    if isinstance(error, KeyError) and error.args[:1] in [(config.get(key),) for key in SPLITS]:
        return f"its data has no split `{error.args[0]}`. Correct the split in the task file."
    return f"{type(error).__name__}: {first_line(error)}. Correct its file, or leave the task out."


def _of_group(group: Group) -> list[Row]:
    """The group itself if the harness computes a result for it, else the rows of its members."""
    if group.has_aggregation:
        return [Row(group.name, group, {task.task_name: task for task in group.get_all_tasks()})]
    rows: list[Row] = []
    for member in group:
        rows += (
            _of_group(member)
            if isinstance(member, Group)
            else [Row(member.task_name, None, {member.task_name: member})]
        )
    return rows


def _check(name: str, task: Task) -> None:
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"The task {name} shows images or sounds. Only tasks in text can be measured: leave it out.")
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(
            f"The task {name} runs code that the model writes, and trl-ext does not run such code. Leave it out, or merge the run "
            "and use `lm_eval` in a container."
        )


def _set_num_fewshot(task: Task, num_fewshot: int | None) -> None:
    """As the harness does: a task that says 0 keeps it, and one that says nothing has 0."""
    own = task.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
