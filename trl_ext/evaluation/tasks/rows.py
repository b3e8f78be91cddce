"""Turn the results of tasks into the entries of the record: one per task, and one per group from those of its tasks."""

from __future__ import annotations

from typing import Any

from lm_eval.api.group import Group
from lm_eval.api.task import Task

from trl_ext.evaluation.tasks import differences
from trl_ext.evaluation.tasks.choice import TaskChoice
from trl_ext.evaluation.tasks.differences import Compared
from trl_ext.evaluation.tasks.loading import Row
from trl_ext.evaluation.tasks.measure import UNPRINTED, Measured, Measurement
from trl_ext.evaluation.tasks.record import Entry
from trl_ext.support.errors import UserError

PREFERRED = "acc_norm"
"""The metric that is shown, if a task has it: accuracy by log-probability per byte or character of a choice. Otherwise the first."""


def entry(row: Row, measurement: Measurement, choice: TaskChoice) -> Entry:
    """Measure a task, or the tasks of a group that have not been measured yet.

    Raises:
        UserError: A task fails, or has no result that is a number.
    """
    measured = {name: measurement.compare(name, task) for name, task in row.tasks.items()}
    if row.group is None:
        return _entry(measured[row.name], row.tasks[row.name], choice)
    of_group = _together(row.group, measured)
    if not of_group.metrics:
        raise UserError(
            f"No task of the group {row.name} has the metric that the group reports. Name its tasks instead."
        )
    subtasks = {name: _entry(each, row.tasks[name], choice) for name, each in measured.items()}
    return _entry(of_group, next(iter(row.tasks.values())), choice) | {"subtasks": subtasks}


def _entry(measured: Measured, task: Task, choice: TaskChoice) -> Entry:
    names = list(measured.metrics)
    metric = next((name for name in names if name.split(",")[0] == PREFERRED), names[0])
    rows = {name: _numbers(name, measured) for name in names}
    return {
        **rows.pop(metric),
        "limit": choice.limit,
        "num_fewshot": task.get_config("num_fewshot"),
        "apply_chat_template": choice.apply_chat_template,
        "others": rows,
    }


def _numbers(metric: str, measured: Measured) -> dict[str, Any]:
    compared = {name: estimate._asdict() for name, estimate in measured.metrics[metric]._asdict().items()}
    return {
        "metric": metric,
        "n": measured.n[metric],
        **compared,
        "higher_is_better": measured.higher_is_better[metric],
    }


def _together(group: Group, measured: dict[str, Measured]) -> Measured:
    """The metrics that a group reports, as the harness computes them: means over its tasks, by default weighted by documents."""
    found = Measured({}, {}, {})
    for setting in group.aggregate_metric_list or []:
        labels = {
            label for each in measured.values() for label in each.metrics if label.split(",")[0] == setting.metric
        }
        for label in sorted(labels):
            filter_name = label.partition(",")[2] or UNPRINTED
            if setting.filter_list is not None and filter_name not in setting.filter_list:
                continue
            parts = [each for each in measured.values() if label in each.metrics]
            weights = [each.n[label] if setting.weight_by_size else 1 for each in parts]
            directions = {each.higher_is_better[label] for each in parts}
            found.metrics[label] = _weighted(weights, [each.metrics[label] for each in parts])
            found.n[label] = sum(each.n[label] for each in parts)
            found.higher_is_better[label] = directions.pop() if len(directions) == 1 else None
    return found


def _weighted(weights: list[int], parts: list[Compared]) -> Compared:
    return differences.combined(list(zip(weights, parts, strict=True)))
