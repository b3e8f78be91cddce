"""Two CPU processes with unequal numbers of rows give the step gradients of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .helpers import relative_difference
from .two_processes import run


@pytest.mark.slow
def test_two_processes_with_unequal_rows_give_the_gradients_of_one(tiny_model, tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.trainers.two_processes", tiny_model, str(tmp_path)]
    finished = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    two = torch.load(tmp_path / "two.pt", weights_only=False)
    one = run(tiny_model, str(tmp_path), world=1)
    assert one.keys() == two.keys()
    for loss, (gradients, logs) in one.items():
        other_gradients, other_logs = two[loss]
        assert len(gradients) == len(other_gradients) == 3
        for mine, other, log, other_log in zip(gradients, other_gradients, logs, other_logs, strict=True):
            assert relative_difference(other, mine) < 1e-5, loss
            for name in ("loss", "rewards/chosen", "logps/rejected", "entropy", "num_tokens"):
                assert other_log[name] == pytest.approx(log[name], rel=1e-4, abs=1e-5), (loss, name)
