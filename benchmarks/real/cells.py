"""Name the cells of the measurement, and train and measure one of them."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real import model

RESULTS = Path(__file__).parents[1] / "results" / "real"
BASE = "base"


class Failed(Exception):
    """A command of a cell failed. The message is for the user."""


@dataclass(frozen=True)
class Cell:
    """One trained run and its measurement.

    Attributes:
        name: Of its result and its run.
        recipe: The recipe, without `smollm2-135m-`; `None` for the base, which is only measured.
        loss: The loss; `None` for recipes without one.
    """

    name: str
    recipe: str | None = None
    loss: str | None = None

    @property
    def result(self) -> Path:
        return RESULTS / f"{self.name}.json"

    @property
    def is_on_preferences(self) -> bool:
        """Whether it trains on real preferences."""
        return self.recipe == "hh"


CELLS = (
    Cell(BASE),
    *(Cell(loss, "short", loss) for loss in ("dpo", "ipo", "simpo", "kto")),
    Cell("sft", "short-sft"),
    Cell("ppo", "short-ppo"),
    Cell("online", "short-online", "dpo"),
    *(Cell(f"hh-{loss}", "hh", loss) for loss in ("dpo", "ipo", "simpo", "kto", "orpo")),
)


@dataclass(frozen=True)
class Place:
    """Where the runs and the selected preferences are."""

    runs: Path

    @property
    def preferences(self) -> tuple[Path, Path]:
        """Training and held-out pairs."""
        return self.runs / "hh-train.jsonl", self.runs / "hh-held-out.jsonl"


def complete(cell: Cell, place: Place) -> None:
    """Train the cell, continuing an interrupted run, measure it, and save its result."""
    record: dict[str, Any] = {"cell": cell.name, "recipe": cell.recipe, "loss": cell.loss}
    run = place.runs / cell.name
    if cell.recipe:
        _train(cell, run, place)
        record["training"] = _training(run)
    measured = place.runs / f"{cell.name}-measured.json"
    words: list[Any] = [measured, "--pairs", place.preferences[1]]
    words += ["--run", run, "--of", "pairs" if cell.is_on_preferences else "task"] if cell.recipe else []
    _call("benchmarks.real.evaluation", *words, log=run.with_suffix(".log"))
    record |= {"date": time.strftime("%Y-%m-%d"), **json.loads(measured.read_text(encoding="utf-8"))}
    RESULTS.mkdir(parents=True, exist_ok=True)
    partial = cell.result.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(cell.result)


def _train(cell: Cell, run: Path, place: Place) -> None:
    if (run / "adapter_config.json").exists():
        return
    words: list[Any] = ["run", f"smollm2-135m-{cell.recipe}"]
    words += ["--model_name_or_path", model.folder(), "--output_dir", run]
    words += ["--loss", cell.loss] if cell.loss else []
    words += ["--dataset_name", place.preferences[0]] if cell.is_on_preferences else []
    if list(run.glob("checkpoint-*")):
        words += ["--resume_from_checkpoint", "true"]
    else:
        shutil.rmtree(run, ignore_errors=True)  # of a run that was killed before its first checkpoint
    _call("trl_ext", *words, log=run.with_suffix(".log"), used=_used(run))


def _training(run: Path) -> dict[str, Any]:
    """Steps and seconds of training, from the run's own metrics; CPU seconds and peak bytes of its processes."""
    last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    used = [json.loads(line) for line in _used(run).read_text(encoding="utf-8").splitlines()]
    return {
        "steps": last["step"],
        "seconds": last["seconds"],
        "cpu_seconds": round(sum(each["cpu_seconds"] for each in used), 1),
        "peak_bytes": max(each["peak_bytes"] for each in used),
        "threads": used[-1]["threads"],
    }


def _used(run: Path) -> Path:
    """A line of resources for each process that trained the run."""
    return run.with_name(f"{run.name}-used.jsonl")


def _call(module: str, *words: Any, log: Path, used: Path | None = None) -> None:
    """Run a module, append what it prints to `log` and what it used to `used`.

    Raises:
        Failed: It returned an error, or was interrupted.
    """
    command = [sys.executable, "-m", module, *map(str, words)]
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if used is not None:
        resources = {
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_bytes": usage.ru_maxrss * 1024,
            "threads": int(os.environ["OMP_NUM_THREADS"]),
        }
        with used.open("a", encoding="utf-8") as file:
            file.write(json.dumps(resources) + "\n")
    if process.returncode:
        raise Failed(f"`python -m {module} {' '.join(map(str, words))}` returned {process.returncode}; see {log}.")
