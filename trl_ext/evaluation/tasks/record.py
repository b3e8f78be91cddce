"""The record of measured tasks, `tasks.json`, and its summary in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_ext.evaluation.tasks.choice import TaskChoice
from trl_ext.support import atomic
from trl_ext.support.counts import count
from trl_ext.support.intervals import format_estimate
from trl_ext.support.messages import joined

FILE = "tasks.json"

Entry = dict[str, Any]
"""The results of one task or group: `metric`, `n` (documents), `base`, `tuned` and `difference` (tuned minus base; each with
`value`, `low` and `high`), `higher_is_better` (`None` if unknown), `limit`, `num_fewshot` and `apply_chat_template` (as it was
measured), `others` (its other metrics, in the same form), `subtasks` (those of a group, by name)."""


def update(path: Path, entries: Mapping[str, Entry], choice: TaskChoice, step: int | None = None) -> dict[str, Any]:
    """Write the entries to a file, beside those of other tasks that are in it.

    Args:
        path: The file.
        entries: Results by name.
        choice: What was measured.
        step: The optimizer step of the weights. Results of another step are removed from the file.

    Returns:
        What the file holds: `tasks` (entries by name), `step`, `limit` (of the last measurement; `None` for all documents), `summary`.
    """
    tasks = {**_tasks_in(path, step), **entries}
    record = {"step": step, "tasks": tasks, "limit": choice.limit, "summary": summary(tasks)}
    atomic.write_json(path, record)
    return record


def summary(tasks: Mapping[str, Entry]) -> str:
    """One line about what training cost: the tasks whose loss is larger than its interval, or that there is none."""
    lost = {name: entry for name, entry in tasks.items() if verdict(entry) == "lost"}
    unknown = {name: entry for name, entry in tasks.items() if verdict(entry) == "changed"}
    if lost:
        share = f"{len(lost)} of {count(len(tasks), 'tasks')} lost more than {'their intervals' if len(lost) > 1 else 'its interval'}"
        line = f"{share}: {joined(list(map(_change, lost, lost.values())))}."
    else:
        line = "No task lost more than its interval." if len(tasks) > 1 else "The task lost no more than its interval."
        line += _resolution(tasks)
    if unknown:
        line += f" It is unknown whether a change is a loss: {joined(list(map(_change, unknown, unknown.values())))}."
    return line


def verdict(entry: Entry) -> str:
    """`lost`, `gained`, `changed` (the better direction is unknown), or `same` if the interval of the difference includes 0."""
    difference, higher = entry["difference"], entry["higher_is_better"]
    if difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return "same"
    if higher is None:
        return "changed"
    return "gained" if (difference["value"] > 0) == higher else "lost"


def shown(entry: Entry, key: str) -> str:
    """`base`, `tuned` or `difference` of an entry, with its interval."""
    size = max(abs(entry[each]["value"]) for each in ("base", "tuned"))
    sign, digits = "+" if key == "difference" else "", 3 if size <= 1 else 2 if size < 100 else 0
    return format_estimate(entry[key], f"{{:{sign}.{digits}f}}")


def _resolution(tasks: Mapping[str, Entry]) -> str:
    """The largest loss that may have gone unseen, among tasks whose results are shares."""
    halves = {name: _half_width(entry) for name, entry in tasks.items() if _is_share(entry)}
    if not halves:
        return ""
    widest = max(halves, key=halves.get)
    if len(tasks) == 1:
        return f" It is ± {halves[widest]:.3f}: a smaller loss would not show."
    return f" The widest is ± {halves[widest]:.3f} ({widest}): a smaller loss would not show there."


def _is_share(entry: Entry) -> bool:
    return entry["difference"]["low"] is not None and all(0 <= entry[who]["value"] <= 1 for who in ("base", "tuned"))


def _half_width(entry: Entry) -> float:
    return (entry["difference"]["high"] - entry["difference"]["low"]) / 2


def _change(name: str, entry: Entry) -> str:
    return f"{name} {shown(entry, 'difference')} ({entry['metric']})"


def _tasks_in(path: Path, step: int | None) -> dict[str, Entry]:
    """The results in a file that are of the weights of this step, as far as it is known."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        tasks, measured = record["tasks"], record.get("step")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return tasks if isinstance(tasks, dict) and measured in (None, step) else {}
