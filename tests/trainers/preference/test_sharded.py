"""Two processes that share a base sharded by FSDP2 compute what one process computes. It runs on CPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.trainers.helpers import relative_difference
from tests.trainers.preference.two_processes_sharded import RUNS, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tiny_model, tmp_path_factory):
    """The folder of `two_processes_sharded.py`, and what it saved: of each run, and of a resumed run."""
    output = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.trainers.preference.two_processes_sharded", tiny_model, str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).parents[3]
    finished = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=1200)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return output, *torch.load(output / "two.pt", weights_only=False)


@pytest.fixture(scope="module")
def one(tiny_model, tmp_path_factory):
    return run(tiny_model, str(tmp_path_factory.mktemp("one")), world=1)


@pytest.mark.parametrize("name", RUNS)
def test_steps_are_those_of_one_process(name, one, two):
    bound = 2e-2 if "bf16" in name else 1e-5  # sums of products in bfloat16 depend on the rows
    gradients, logs, weights, dtypes, _ = one[name]
    other_gradients, other_logs, other_weights, other_dtypes, _ = two[1][name]
    assert other_dtypes == dtypes == {torch.float32}
    assert len(gradients) == len(other_gradients) == 3
    for mine, other, log, other_log in zip(gradients, other_gradients, logs, other_logs, strict=True):
        assert relative_difference(other, mine) < bound
        for metric in ("loss", "grad_norm", "rewards/chosen", "logps/rejected", "entropy", "num_tokens"):
            assert other_log[metric] == pytest.approx(log[metric], rel=10 * bound, abs=bound), metric
    assert relative_difference(other_weights, weights) < bound


def test_the_baseline_of_kto_is_tested(one):
    assert any(log["kl"] > 0 for log in one["kto"][1])


def test_evaluation_counts_no_example_twice(one, two):
    mine, other = one["dpo"][-1], two[1]["dpo"][-1]
    for name in ("eval_loss", "eval_rewards/margins", "eval_rewards/accuracies", "eval_logps/chosen"):
        assert other[name] == pytest.approx(mine[name], rel=1e-5, abs=1e-6), name


def test_plain_peft_loads_the_adapter(one, two, tiny_model):
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), two[0] / "adapter")
    found = {name: p.detach() for name, p in loaded.named_parameters() if "lora_" in name}
    assert relative_difference(found, one["dpo"][2]) < 1e-5


def test_a_resumed_run_is_the_uninterrupted_run(two):
    whole, resumed = two[2]
    assert relative_difference(resumed, whole) < 1e-6
