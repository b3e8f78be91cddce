"""Two CPU processes with unequal numbers of rows compute what one process computes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainers.helpers import relative_difference
from tests.trainers.preference.two_processes import evaluate, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tiny_model, tmp_path_factory):
    """What `two_processes.py` saved: gradients and logs, evaluation metrics, losses of a resumed run, and its folder."""
    output = tmp_path_factory.mktemp("two")
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.trainers.preference.two_processes", tiny_model, str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=1200)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return (*torch.load(output / "two.pt", weights_only=False), output)


def test_step_gradients_are_those_of_one_process(two, tiny_model, tmp_path):
    one = run(tiny_model, str(tmp_path), world=1)
    assert one.keys() == two[0].keys()
    for loss, (gradients, logs) in one.items():
        other_gradients, other_logs = two[0][loss]
        assert len(gradients) == len(other_gradients) == 3
        for mine, other, log, other_log in zip(gradients, other_gradients, logs, other_logs, strict=True):
            assert relative_difference(other, mine) < 1e-5, loss
            for name in ("loss", "rewards/chosen", "logps/rejected", "entropy", "num_tokens"):
                assert other_log[name] == pytest.approx(log[name], rel=1e-4, abs=1e-5), (loss, name)
    assert any(log["kl"] > 0 for log in one["kto"][1])  # otherwise the shared baseline was never tested


def test_evaluation_counts_no_example_twice(two, tiny_model, tmp_path):
    one = evaluate(tiny_model, str(tmp_path), world=1)
    for kind, metrics in one.items():
        preferences = ("eval_rewards/margins", "eval_rewards/accuracies", "eval_logps/chosen")
        for name in ("eval_loss", *(() if kind.startswith("sft") else preferences)):
            assert two[1][kind][name] == pytest.approx(metrics[name], rel=1e-5, abs=1e-6), (kind, name)
            if kind.startswith("streamed"):
                assert metrics[name] == pytest.approx(one["loaded"][name], rel=1e-5, abs=1e-6), (kind, name)
    assert two[1]["sft, streamed from two files"]["eval_loss"] == pytest.approx(two[1]["sft"]["eval_loss"], rel=1e-5)


def test_the_first_process_alone_may_save_the_model(two):
    assert (two[3] / "saved" / "adapter_model.safetensors").is_file()


def test_a_resumed_run_sees_the_rest_of_its_epoch(two):
    whole, resumed = two[2]
    assert len(whole) == 9
    assert resumed == pytest.approx(whole, rel=1e-6)
