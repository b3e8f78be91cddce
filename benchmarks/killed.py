"""Run the command line and kill its process at a chosen moment, like a power failure.

Usage: killed.py REPORT KILL run RECIPE [FLAGS]

KILL is `never`; or `moment:N`, the N-th moment of the first save, or of writing pairs: while a file is written, before it is synced,
before it is renamed, while old files are removed; or `PHASE:N:SECONDS`, so long after the N-th stretch of a phase began. A stretch that is over
sooner is killed at its end. The JSON file REPORT has the place of the kill; or, without one, every stretch and every moment.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from accelerate.optimizer import AcceleratedOptimizer

from trl_ext import cli
from trl_ext.checkpoints import manifest
from trl_ext.pairing import held_out, make, rounds, sample
from trl_ext.pairing.kept import Kept
from trl_ext.pairing.output import Output
from trl_ext.trainers.common.nonfinite import FiniteSteps
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint
from trl_ext.trainers.rollout.trainer import RolloutTrainer

LOADING, OTHER, FINISHING = "loading", "other", "finishing"
"""Before training, between the phases of training, and after it."""
SAVING, WRITING = "saving", "writing"
PHASES = {
    "sampling": [(RolloutTrainer, "_generate_single_turn"), (sample, "_complete")],
    "scoring": [(RolloutTrainer, "_generate_and_score_completions")],  # under policy, reference and critic
    "rewards": [(RolloutTrainer, "_calculate_rewards"), (make, "_score")],
    "update": [(FiniteSteps, "training_step"), (AcceleratedOptimizer, "step")],
    SAVING: [(StagedCheckpoint, "_save_checkpoint")],
    WRITING: [(Output, "begin"), (Output, "write"), (Kept, "add"), (rounds, "begin")],
    "measuring": [(held_out, "measure")],
}
"""What happens in calls of which functions. A phase within another interrupts it."""


class Watch:
    """Follows the phases of a run and the moments of its first save, and kills the process in one of them.

    Attributes:
        stretches: Phase, optimizer steps before it, and seconds of every stretch so far.
        moments: Names of the moments of the first save, and of writing pairs.
    """

    def __init__(self, report: Path, kill: str) -> None:
        self.report = report
        phase, *values = kill.split(":")
        self.moment = int(values[0]) if phase == "moment" else None
        self.target = (phase, int(values[0]), float(values[1])) if len(values) == 2 else None
        self.moments: list[str] = []
        self.stretches: list[tuple[str, int, float]] = []
        self.counts: Counter[str] = Counter()
        self.inner = [LOADING]  # the phases that are open, the last one within all others
        self.trainer: Any = None  # during its training
        self.steps = 0  # of a training that is over
        self.saves = 0.0
        self.dying = threading.Lock()  # a timer and the end of its stretch may come at the same moment
        self._begin()
        for name, places in PHASES.items():
            for owner, function in places:
                self._around(owner, function, self._in_phase(name))
        self._around(StagedCheckpoint, "train", self._train)
        self._around(StagedCheckpoint, "_save_checkpoint", self._save)
        self._at_moment(torch, "save", _half_of_argument(1))
        self._at_moment(safetensors.torch, "serialize_file", _half_of_argument(1))
        self._at_moment(transformers.TrainerState, "save_to_json", _half_of_argument(1))
        self._at_moment(manifest, "write", lambda arguments: _half(arguments[0] / manifest.FILE))
        self._at_moment(os, "fsync", self._torn)
        self._at_moment(Path, "rename")
        self._at_moment(Path, "replace")
        self._at_moment(shutil, "rmtree", _half_of_a_folder)

    def write(self, **facts: Any) -> None:
        self.report.write_text(json.dumps({"moments": self.moments, "stretches": self.stretches, **facts}))

    # Phases -----------------------------------------------------------------------------------------------------

    def _in_phase(self, name: str) -> Callable:
        def run(real: Callable, *args: Any, **kwargs: Any) -> Any:
            self._end()
            self.inner.append(name)
            self._begin()
            try:
                return real(*args, **kwargs)
            finally:
                self._end()
                self.inner.pop()
                self._begin()

        return run

    def _train(self, real: Callable, trainer: Any, *args: Any, **kwargs: Any) -> Any:
        self._end()
        self.trainer = trainer
        self.inner[0] = OTHER
        self._begin()
        try:
            return real(trainer, *args, **kwargs)
        finally:
            self._end()
            self.inner[0], self.steps, self.trainer = FINISHING, trainer.state.global_step, None
            self._begin()

    @property
    def step(self) -> int:
        """Optimizer steps that are complete; a save belongs to the step before it."""
        if self.trainer is None:
            return self.steps
        return self.trainer.state.global_step - (SAVING in self.inner)

    def _begin(self) -> None:
        self.began, self.began_at = time.monotonic(), self.step
        name = self.inner[-1]
        if self.target is not None and self.target[:2] == (name, self.counts[name]):
            timer = threading.Timer(self.target[2], self._kill, ["in the middle of"])
            timer.daemon = True
            timer.start()

    def _end(self) -> None:
        name = self.inner[-1]
        if self.target is not None and self.target[:2] == (name, self.counts[name]):
            self._kill("at the end of")
        self.counts[name] += 1
        self.stretches.append((name, self.began_at, time.monotonic() - self.began))

    def close(self) -> None:
        """End the last stretch, and report."""
        self._end()
        self.write()

    # Moments of a save ------------------------------------------------------------------------------------------

    def _save(self, real: Callable, *args: Any) -> None:
        self.saves += 1
        real(*args)
        self.saves += 0.5  # beyond the save; a later one is another number

    def _at_moment(self, owner: Any, name: str, before: Callable[[tuple], None] = lambda arguments: None) -> None:
        def watched(real: Callable, *args: Any, **kwargs: Any) -> Any:
            if self.saves == 1 or self.inner[-1] == WRITING:
                paths = [Path(argument).name for argument in args if isinstance(argument, str | Path)]
                label = " ".join([f"{len(self.moments)}:", name, *paths[-1:]])
                if len(self.moments) == self.moment:
                    before(args)
                    self._kill(f"at moment {label} of")
                self.moments.append(label)
            return real(*args, **kwargs)

        self._around(owner, name, watched)

    def _torn(self, arguments: tuple) -> None:
        """Cut the last bytes of pairs that are being written."""
        if self.inner[-1] == WRITING:
            with contextlib.suppress(OSError):  # of a folder
                os.ftruncate(arguments[0], max(0, os.fstat(arguments[0]).st_size - 20))

    def _kill(self, where: str) -> None:
        self.dying.acquire()
        name = self.inner[-1]
        seconds = time.monotonic() - self.began
        self.write(phase=name, at_step=self.began_at, where=f"{where} {name}, {seconds:.2f} s after it began")
        os.kill(os.getpid(), signal.SIGKILL)

    def _around(self, owner: Any, name: str, wrapper: Callable) -> None:
        real = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: wrapper(real, *args, **kwargs))


def _half_of_argument(index: int) -> Callable[[tuple], None]:
    return lambda arguments: _half(Path(arguments[index]))


def _half(path: Path) -> None:
    """Make a file look as if it was being written."""
    path.write_bytes(b"PK\x03\x04" + bytes(60))


def _half_of_a_folder(arguments: tuple) -> None:
    for path in sorted(Path(arguments[0]).glob("*"))[::2]:
        path.unlink() if path.is_file() else shutil.os.rmdir(path)


def main(words: list[str]) -> int:
    report, kill, *command = words
    watch = Watch(Path(report), kill)
    code = cli.main(command)
    watch.close()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
