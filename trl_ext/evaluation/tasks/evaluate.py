"""Measure the tasks of the harness for a run and its base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trl_ext.evaluation.tasks import harness, record
from trl_ext.evaluation.tasks.choice import TaskChoice
from trl_ext.evaluation.tasks.record import Entry
from trl_ext.runs import finished
from trl_ext.runs.load import open_model
from trl_ext.runs.loaded import Opened
from trl_ext.runs.signals import Interrupted
from trl_ext.support.errors import UserError


def evaluate_run(
    directory: Path, choice: TaskChoice, log: Callable[[str], None], watched: Any, output: Path | None = None
) -> dict[str, Entry]:
    """Measure tasks for a run or one of its checkpoints. The tasks are loaded before the model.

    Args:
        directory: The run's directory.
        choice: The tasks, and how they are measured.
        log: Called with each message for the user.
        watched: Shows the progress of requests (see `trl_ext.evaluation.tasks.model.Watched`).
        output: See `evaluate_tasks`.

    Returns:
        See `evaluate_tasks`.

    Raises:
        UserError: The run cannot be evaluated; or see `load` and `evaluate_tasks`.
    """
    harness.require()
    finished.check(directory)
    rows = load(choice, log)
    opened = open_model(directory, needs_reference=True)
    opened.add_reference()
    return evaluate_tasks(opened, rows, choice, log, watched, output)


def load(choice: TaskChoice, log: Callable[[str], None]) -> Sequence[Any]:
    """Load the tasks and their data, without any model, for `evaluate_tasks`.

    Raises:
        UserError: The harness is not installed, there is no such task, or its data cannot be loaded.
    """
    harness.require()
    from trl_ext.evaluation.tasks.loading import load_tasks

    return load_tasks(choice, log)


def evaluate_tasks(
    opened: Opened,
    rows: Sequence[Any],
    choice: TaskChoice,
    log: Callable[[str], None],
    watched: Any,
    output: Path | None = None,
) -> dict[str, Entry]:
    """Measure tasks with the base and with the tuned model that are in memory: the adapter is switched, nothing is loaded.

    The file is written after each task, so that an interrupt keeps those before it.

    Args:
        opened: The run, with its reference.
        rows: The tasks, from `load`.
        choice: How they are measured.
        log: Called with each message for the user.
        watched: Shows the progress of requests.
        output: File of the record (default: `tasks.json` in the run). Entries of other tasks in it are kept.

    Returns:
        An entry (see `record.Entry`) for each task and group, by name.

    Raises:
        UserError: A task fails, or the model has no chat template and one was asked for.
        Interrupted: By Ctrl-C. The message names the tasks that are in the file.
    """
    from trl_ext.evaluation.tasks.measure import Measurement
    from trl_ext.evaluation.tasks.rows import entry

    if choice.apply_chat_template and opened.tokenizer.chat_template is None:
        raise UserError("`--apply_chat_template` was given, but the model has no chat template. Leave the flag out.")
    measurement = Measurement(opened, choice, log, watched)
    entries: dict[str, Entry] = {}
    path, step = output or opened.directory / record.FILE, finished.last_step(opened.directory)
    try:
        for row in rows:
            entries[row.name] = entry(row, measurement, choice)
            record.update(path, {row.name: entries[row.name]}, choice, step)
    except KeyboardInterrupt:
        raise Interrupted(f"{path} has {', '.join(entries)}." if entries else "No task was finished.") from None
    return entries
