"""Fit the overhead of the allocator and the CUDA context to measured peaks, and keep it for later plans."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.planner.fitting import Overhead
from trl_ext.planner.memory import GIB
from trl_ext.support import atomic
from trl_ext.support.errors import UserError

FILE = "plan.json"
"""File written by a run on a GPU: its plan as data, with the measured peak under `measured`."""


def path() -> Path:
    """Path of the file with fitted coefficients, beside the reference cache."""
    cache = os.environ.get("TRL_EXT_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "trl-ext") / "calibration.json"


def load() -> Overhead:
    """The fitted coefficients if there are any, else the defaults."""
    try:
        content = json.loads(path().read_text(encoding="utf-8"))
        return Overhead(float(content["allocator"]), float(content["context"]))
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # also an unreadable home directory
        return Overhead()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The calibration file {path()} cannot be read ({error}). Remove it and calibrate again with "
            "`trl-ext plan --calibrate RUN`."
        ) from error


def save(overhead: Overhead) -> Path:
    """Keep coefficients for later plans."""
    file = path()
    atomic.write_json(file, asdict(overhead))
    return file


def record(plan: Any, measured: float) -> dict[str, Any]:
    """A run's plan beside the peak it measured, for `plan.json`.

    Args:
        plan: A `VramPlan` for the row length and checkpointed layers of the run.
        measured: Maximum bytes of the process on the GPU.
    """
    return {"plan": plan.to_dict(), "measured": measured, "relative_error": plan.peak / measured - 1}


class Point(NamedTuple):
    """A measured peak beside the plan for the same row length and checkpointed layers, in bytes.

    Attributes:
        name: Name of the measurement.
        static: Planned weights and training state.
        activations: Planned activations, without the allocator's overhead.
        measured: Maximum of the process on the GPU, CUDA context included.
    """

    name: str
    static: float
    activations: float
    measured: float

    def planned(self, overhead: Overhead) -> float:
        """The planned peak with these coefficients."""
        return self.static + overhead.allocator * self.activations + overhead.context

    def error(self, overhead: Overhead) -> float:
        """Relative error of the planned peak with these coefficients."""
        return self.planned(overhead) / self.measured - 1


def fit(points: Sequence[Point]) -> Overhead:
    """Fit measured − static = allocator · activations + context by least squares.

    With one point, or with points of nearly equal activations, only the context is fitted.
    """
    rest = [point.measured - point.static for point in points]
    mean_x, mean_y = sum(point.activations for point in points) / len(points), sum(rest) / len(points)
    spread = sum((point.activations - mean_x) ** 2 for point in points)
    slope = Overhead().allocator
    if spread > (0.01 * mean_x) ** 2 * len(points):
        slope = sum((p.activations - mean_x) * (y - mean_y) for p, y in zip(points, rest, strict=True)) / spread
    return Overhead(slope, mean_y - slope * mean_x)


def points(files: Sequence[str | Path]) -> list[Point]:
    """Read measurements from files.

    Args:
        files: Run directories or their `plan.json`, or results of `python -m benchmarks.gpu`.

    Raises:
        UserError: A file is missing or has no measurement.
    """
    return [point for file in files for point in _points(Path(file))]


def _points(run: Path) -> list[Point]:
    file = run / FILE if run.is_dir() else run
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = _of_benchmark(content) if "cells" in content else [_of_run(file, content)]
    except FileNotFoundError as error:
        raise UserError(f"{run} holds no {FILE}. Only a finished run on a GPU writes one.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not a plan with a measurement. Give the directory of a finished run on a GPU."
        ) from error
    if not found:
        raise UserError(
            f"{file} has no usable measurement of a training step on a GPU. `python -m benchmarks.gpu` measures one."
        )
    return found


def _of_run(file: Path, content: dict[str, Any]) -> Point:
    terms = {term["name"]: (float(term["bytes"]), bool(term["is_static"])) for term in content["plan"]["terms"]}
    overheads = ("allocator", "CUDA context")
    static = sum(size for name, (size, is_static) in terms.items() if is_static and name not in overheads)
    activations = sum(size for name, (size, is_static) in terms.items() if not is_static and name not in overheads)
    return Point(str(file), static, activations, float(content["measured"]))


def _of_benchmark(content: dict[str, Any]) -> list[Point]:
    """Measured steps of recipes with a chosen row length. Other recipes are planned for the longest possible examples, so
    their plan and measurement do not compare."""
    steps = {name: cells.get("step") or {} for name, cells in content["cells"].items()}
    return [
        Point(
            name,
            GIB * step["planned_static_gib"],
            GIB * step["planned_activations_gib"],
            GIB * (step["reserved_gib"] + step["context_gib"]),
        )
        for name, step in sorted(steps.items())
        if step.get("fits") and step["checkpointed_layers"] is not None and step["context_gib"] is not None
    ]
