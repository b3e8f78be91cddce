"""Read what was measured of a run: the records of evaluations, judges and tasks in its directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_ext.checkpoints import found
from trl_ext.evaluation import results
from trl_ext.report import metrics_file
from trl_ext.runs import finished

Record = dict[str, Any]

OF_COMPARISON = "measured.json"
"""The record of a run of a comparison; its part `evaluation` is that of `trl-ext eval`."""


@dataclass
class Measured:
    """What was measured of one set of weights: those of the run, or of a checkpoint.

    Attributes:
        name: `tuned` for the run, else the name of the checkpoint's folder.
        is_run: Whether it is the run.
        evaluations: Records of `trl_ext.evaluation.evaluate`.
        judged: Records of judges.
        tasks: The record of the tasks, if there is one.
        samples: Answers that were sampled for a judge: `prompt`, `base`, `tuned`.
        outdated: Names of the records of weights that were trained further since; they are not in the lists above.
        unreadable: Names of the files that hold no such record.
    """

    name: str
    is_run: bool
    evaluations: list[Record] = field(default_factory=list)
    judged: list[Record] = field(default_factory=list)
    tasks: Record | None = None
    samples: list[Record] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def has_results(self) -> bool:
        """Whether any number was measured."""
        return bool(self.evaluations or self.judged or self.tasks)


def read(directory: Path) -> list[Measured]:
    """What was measured of a run and of each of its checkpoints, the run first.

    Args:
        directory: The run's directory.
    """
    checkpoints = reversed(found.newest_first(directory))
    return [
        _read(directory, "tuned", is_run=True),
        *(_read(folder, folder.name, is_run=False) for folder in checkpoints),
    ]


def _read(folder: Path, name: str, *, is_run: bool) -> Measured:
    measured, step = Measured(name, is_run), finished.last_step(folder)

    def valid(file: Path, is_valid: Callable[[Record], bool], part: str | None = None) -> list[Record]:
        """The record of a file as a list of one, or of none."""
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            record = record if part is None else record[part]
            if is_valid(record):
                if step is None or (record.get("step") or step) >= step:
                    return [record]
                measured.outdated.append(file.name)
                return []
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass
        measured.unreadable.append(file.name)
        return []

    for file in sorted(folder.glob("eval-*.json")):
        measured.evaluations += valid(file, _is_evaluation)
    if not measured.evaluations and (folder / OF_COMPARISON).exists():
        measured.evaluations += valid(folder / OF_COMPARISON, _is_evaluation, "evaluation")
    for file in sorted(folder.glob("judged-*.json")):
        measured.judged += valid(file, lambda record: isinstance(record["judge"], str) and "wins" in record)
    if (folder / "tasks.json").exists():
        measured.tasks = next(iter(valid(folder / "tasks.json", lambda record: bool(record["tasks"]))), None)
    for file in sorted(folder.glob("samples-*.jsonl")):
        lines = metrics_file.read(file)
        measured.samples += [line for line in lines if isinstance(line, dict) and {"prompt", "base", "tuned"} <= line.keys()]
    return measured


def _is_evaluation(record: Record) -> bool:
    """Whether a record has everything that tables show; raises if its parts have other types."""
    return bool(results.of_run(record) and results.of_base(record) and record["data"]["name"])
