"""Read what was measured of a run: the records of evaluations, judges and tasks in its directory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_ext.checkpoints import found
from trl_ext.evaluation.run_page import answers, tables
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
        tasks: The record of the tasks, or none.
        outdated: Names of the records of weights that were trained further since; they are not in the lists above.
        unreadable: Names of the files that hold no such record.
    """

    name: str
    is_run: bool
    evaluations: list[Record] = field(default_factory=list)
    judged: list[Record] = field(default_factory=list)
    tasks: list[Record] = field(default_factory=list)
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
    comparison = [folder / OF_COMPARISON] if _was_evaluated(folder / OF_COMPARISON) else []
    evaluations = sorted(folder.glob("eval-*.json")) or comparison
    for kind, files in (
        ("evaluations", evaluations),
        ("judged", sorted(folder.glob("judged-*.json"))),
        ("tasks", folder.glob("tasks.json")),
    ):
        for file in files:
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
                record = record["evaluation"] if file.name == OF_COMPARISON else record
                is_outdated = step is not None and (record.get("step") or step) < step
                _require_complete(kind, record)
            except (OSError, ValueError, TypeError, LookupError, AttributeError):
                measured.unreadable.append(file.name)
                continue
            (measured.outdated if is_outdated else getattr(measured, kind)).append(
                file.name if is_outdated else record
            )
    return measured


def _was_evaluated(comparison: Path) -> bool:
    """Whether the record of a comparison is there. A run that only a judge compared was not evaluated."""
    try:
        return json.loads(comparison.read_text(encoding="utf-8"))["evaluation"] is not None
    except OSError:
        return False
    except (ValueError, TypeError, LookupError):
        return True  # reported as unreadable


def _require_complete(kind: str, record: Record) -> None:
    """Raise an error of any kind if a record lacks what is shown of it."""
    alone = [Measured("tuned", True, **{kind: [record]})]
    tables.evaluations(alone), tables.judged(alone), tables.tasks(alone), tables.in_brief(alone)
    list(answers.each_of(alone[0]))
