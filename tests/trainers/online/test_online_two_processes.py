"""Two CPU processes, each with its own pairs, take one step in which every pair with a preference weighs the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainers.helpers import arguments, build, relative_difference
from trl_ext import PairedPreferenceConfig, PairedPreferenceTrainer


@pytest.mark.slow
def test_a_step_is_the_mean_over_the_pairs_of_both(model, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.trainers.online.two_processes", model, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[3]
    finished = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=1200)
    assert finished.returncode == 0, finished.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]

    counts = [len(rank["pairs"]) for rank in ranks]
    assert counts[0] != counts[1] and all(0 < count < 8 for count in counts)
    expected = build(PairedPreferenceTrainer, PairedPreferenceConfig(**arguments(tmp_path, beta=0.5)), model)
    sums = expected.step.run([pair for rank in ranks for pair in rank["pairs"]])
    gradients = {name: p.grad for name, p in expected.model.named_parameters() if p.grad is not None}
    for rank in ranks:
        assert relative_difference(rank["gradients"], gradients) < 1e-5
    log = ranks[0]["logs"][0]
    assert log["pairs/ties"] == pytest.approx(1 - sum(counts) / 16)
    assert log["rewards/margins"] == pytest.approx(sums.means()["rewards/margins"], abs=1e-6)
