"""Start many processes of the command line that need not import torch again.

A server process imports everything that a run imports and computes nothing, so that it has no threads. Every life is a process of
its own, forked from it: it loads model and data, trains, and can be killed by a real SIGKILL, which the server survives.
"""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST = 900
"""Seconds after which a life is given up."""


def forked(words: list[str], printed: Path, **environment: str) -> int:
    """Run `benchmarks.killed` in a process forked from the server, which is started first if need be.

    Args:
        words: The arguments of `benchmarks.killed`.
        printed: File for what it prints.
        environment: Variables that differ from those of this process.

    Returns:
        Its exit code; −9 if it was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.preloaded"])
    life = context.Process(target=_live, args=(words, str(printed), {**os.environ, **environment}))
    life.start()
    life.join(LONGEST)
    if life.exitcode is None:
        life.kill()
        raise TimeoutError(f"{' '.join(words)} took more than {LONGEST} s.")
    return life.exitcode


def fresh(words: list[str], printed: Path, **environment: str) -> int:
    """The same in a new process of Python."""
    command = [sys.executable, "-m", "benchmarks.killed", *words]
    with printed.open("wb") as file:
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=LONGEST,
            check=False,
        ).returncode


def _live(words: list[str], printed: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from benchmarks import killed

    sys.exit(killed.main(words))
