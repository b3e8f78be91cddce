"""Logits of a GGUF file, computed by llama.cpp in a process of its own, so that a fault in native code is an error message."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from trl_ext.export.fidelity import Predict
from trl_ext.support.errors import UserError
from trl_ext.support.sampling import Completion

WORKER = Path(__file__).with_name("worker.py")


@contextmanager
def opened(file: Path, longest: int) -> Iterator[Predict]:
    """Load a GGUF file for sequences up to `longest` tokens, with all layers on the GPU if llama.cpp was built for one.

    Raises:
        UserError: llama.cpp cannot load or run it.
    """
    command = [sys.executable, str(WORKER), str(file), str(longest), str(torch.get_num_threads())]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        try:
            yield partial(_logits, process, errors, file)
        finally:
            process.kill()  # it may be amid a long computation that nobody waits for
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
            process.wait()


def _logits(process: subprocess.Popen, errors: IO[bytes], file: Path, completion: Completion) -> Tensor:
    """Logits that predict each token of a completion, (C, V), float32."""
    ids = completion.prompt_ids + completion.ids
    try:
        process.stdin.write(json.dumps([ids[:-1], len(completion.prompt_ids) - 1]).encode() + b"\n")
        process.stdin.flush()
        rows, columns = json.loads(process.stdout.readline())
    except (BrokenPipeError, ValueError) as error:
        raise UserError(f"llama.cpp cannot run {file}: {_last_line(process, errors)}") from error
    data = process.stdout.read(4 * rows * columns)
    return torch.from_numpy(np.frombuffer(data, dtype=np.float32).reshape(rows, columns).copy())


def _last_line(process: subprocess.Popen, errors: IO[bytes]) -> str:
    code = process.wait()
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    if code < 0:
        return (
            f"it crashed (signal {-code}). Build it for a plainer CPU: `CMAKE_ARGS=-DGGML_NATIVE=OFF pip install --force-reinstall "
            "--no-cache-dir llama-cpp-python`."
        )
    return lines[-1] if lines else f"its process ended with {code}."
