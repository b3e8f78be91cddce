"""Coefficients fitted to measured peaks: what the allocator and the CUDA context add to the tensors' own bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trl_ext.errors import UserError
from trl_ext.planner.fitting import Overhead

FILE = "plan.json"
"""Written by a run on a GPU: its plan as data, with the measured peak under `measured`."""


def path() -> Path:
    """Where fitted coefficients are kept: beside the reference cache."""
    cache = os.environ.get("TRL_EXT_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "trl-ext") / "calibration.json"


def load() -> Overhead:
    """The fitted coefficients, else the defaults."""
    try:
        content = json.loads(path().read_text(encoding="utf-8"))
        return Overhead(float(content["allocator"]), float(content["context"]))
    except FileNotFoundError:
        return Overhead()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path()} cannot be read ({error}): remove it, and calibrate again.") from error


def save(overhead: Overhead) -> Path:
    """Keep coefficients for later plans."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(overhead), indent=2) + "\n", encoding="utf-8")
    return file


def record(plan: Any, measured: float) -> dict[str, Any]:
    """A run's plan beside the peak it measured, for `plan.json`.

    Args:
        plan: A `VramPlan` for the rows and the recomputed layers of the run.
        measured: Most bytes the process held on the GPU.
    """
    return {"plan": plan.to_dict(), "measured": measured, "relative_error": plan.peak / measured - 1}


def fit(runs: Sequence[str | Path]) -> tuple[Overhead, list[tuple[Path, float, float]]]:
    """Least squares of measured − static = allocator · activations + context, over the `plan.json` of runs.

    With one run, or with runs whose activations are all alike, only the context is fitted.

    Args:
        runs: Run directories, or the files themselves.

    Returns:
        The coefficients, and for each file the planned peak with them and the measured one, bytes.

    Raises:
        UserError: A file that is missing, or that holds no measurement.
    """
    points = [_point(Path(run)) for run in runs]
    activations = [activation for _, _, activation, _ in points]
    rest = [measured - static for _, static, _, measured in points]
    mean_x, mean_y = sum(activations) / len(points), sum(rest) / len(points)
    spread = sum((x - mean_x) ** 2 for x in activations)
    slope = Overhead().allocator
    if spread > (0.01 * mean_x) ** 2 * len(points):
        slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(activations, rest, strict=True)) / spread
    overhead = Overhead(slope, mean_y - slope * mean_x)
    return overhead, [
        (file, static + slope * activation + overhead.context, measured)
        for file, static, activation, measured in points
    ]


def _point(run: Path) -> tuple[Path, float, float, float]:
    """File, bytes of weights and training state, bytes of activations, measured bytes."""
    file = run / FILE if run.is_dir() else run
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        terms = {term["name"]: (float(term["bytes"]), bool(term["is_static"])) for term in content["plan"]["terms"]}
        measured = float(content["measured"])
    except FileNotFoundError as error:
        raise UserError(f"{run} holds no {FILE}: only finished runs on a GPU write one.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no plan with a measurement: name a run directory of a run on a GPU.") from error
    overheads = ("allocator", "CUDA context")
    static = sum(size for name, (size, is_static) in terms.items() if is_static and name not in overheads)
    activation = sum(size for name, (size, is_static) in terms.items() if not is_static and name not in overheads)
    return file, static, activation, measured
