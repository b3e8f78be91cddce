"""Run the command line and kill its process at a chosen moment, like a power failure.

Usage: killed.py REPORT never|time|moment VALUE run RECIPE [FLAGS]

`time` kills VALUE seconds after training began. `moment` kills at the VALUE-th moment of the first save: while a file is
written, before it is synced, before it is renamed, while old files are removed. The JSON file REPORT has the name of the
moment, or, for an uninterrupted run, the moments of its first save and its seconds of training.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers

from trl_ext import cli
from trl_ext.checkpoints import manifest
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint


class Watch:
    """Counts the moments of a save, and kills the process at one of them.

    Attributes:
        moments: Names of the moments of the first save.
        seconds: Duration of training.
    """

    def __init__(self, report: Path, mode: str, value: float) -> None:
        self.report, self.mode, self.value = report, mode, value
        self.moments: list[str] = []
        self.seconds = 0.0
        self.saves = 0
        self._around(StagedCheckpoint, "train", self._train)
        self._around(StagedCheckpoint, "_save_checkpoint", self._save)
        self._moment(torch, "save", _half_of_argument(1))
        self._moment(safetensors.torch, "serialize_file", _half_of_argument(1))
        self._moment(transformers.TrainerState, "save_to_json", _half_of_argument(1))
        self._moment(manifest, "write", lambda arguments: _half(arguments[0] / manifest.FILE))
        self._moment(os, "fsync")
        self._moment(Path, "rename")
        self._moment(shutil, "rmtree", _half_of_a_folder)

    def write(self, **facts: Any) -> None:
        self.report.write_text(json.dumps({"moments": self.moments, "seconds": self.seconds, **facts}))

    def _train(self, real: Callable, *args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        if self.mode == "time":
            timer = threading.Timer(self.value, self._kill, [f"after {self.value:.2f} s"])
            timer.daemon = True
            timer.start()
        try:
            return real(*args, **kwargs)
        finally:
            self.seconds = time.monotonic() - started

    def _save(self, real: Callable, *args: Any) -> None:
        self.saves += 1
        real(*args)
        self.saves += 0.5  # beyond the save; a later one is another number

    def _moment(self, owner: Any, name: str, before: Callable[[tuple], None] = lambda arguments: None) -> None:
        def watched(real: Callable, *args: Any, **kwargs: Any) -> Any:
            if self.saves == 1:
                paths = [Path(argument).name for argument in args if isinstance(argument, str | Path)]
                label = " ".join([f"{len(self.moments)}:", name, *paths[-1:]])
                if self.mode == "moment" and len(self.moments) == self.value:
                    before(args)
                    self._kill(label)
                self.moments.append(label)
            return real(*args, **kwargs)

        self._around(owner, name, watched)

    def _kill(self, where: str) -> None:
        self.write(where=where)
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
    report, mode, value, *command = words
    watch = Watch(Path(report), mode, float(value))
    code = cli.main(command)
    watch.write()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
