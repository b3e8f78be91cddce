"""Whole runs that are stopped by signals, and go on as if they had not been."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from trl_ext.cli import main

pytestmark = pytest.mark.slow

RECIPE = str(Path(__file__).parents[1] / "recipes" / "demo.yaml")
SETTINGS = [
    *("--max_steps", "12", "--logging_steps", "1", "--per_device_train_batch_size", "8", "--max_train_samples", "80"),
    *("--row_tokens", "256", "--use_cpu", "true", "--disable_tqdm", "true"),
]


class Run:
    """A run in a process of its own; its output goes into a file."""

    def __init__(self, directory: Path, *settings: str, launcher: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.log = directory.with_suffix(".log")
        command = [sys.executable, *launcher, "-m", "trl_ext", "run", RECIPE, *SETTINGS]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--output_dir", str(directory), *settings],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def wait_for(self, condition, timeout: float = 240) -> None:
        end = time.time() + timeout
        while not condition():
            assert self.process.poll() is None and time.time() < end, self.output[-3000:]
            time.sleep(0.02)

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.steps and self.steps[-1] >= step)

    def stop(self, number: int) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=120)

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def steps(self) -> list[int]:
        """Steps whose metrics are there, the closing summary not counted."""
        path = self.directory / "metrics.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [record["step"] for record in records if "loss" in record]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def same_adapter(a: Path, b: Path) -> bool:
    one, other = (load_file(directory / "adapter_model.safetensors") for directory in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def all_gone(processes: list[psutil.Process], within: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=within)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing interrupts."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert main(["run", RECIPE, *SETTINGS, "--output_dir", str(directory)]) == 0
    return directory


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_to_the_same_adapter(number, whole, tmp_path):
    run = Run(tmp_path / "run")
    run.wait_for_step(3)
    assert run.stop(number) == 130
    assert "Traceback" not in run.output
    (line,) = [line for line in run.output.splitlines() if line.startswith("trl-ext: interrupted.")]
    kept, command = re.fullmatch(r"trl-ext: interrupted\. Kept: (\S+)\. Continue: trl-ext (.+)", line).groups()
    step = int(kept.rpartition("-")[2])
    assert 3 <= step < 12 and run.steps == list(range(1, step + 1))
    assert (run.directory / "curves.png").exists()
    assert not (run.directory / "adapter_config.json").exists()  # it would look finished

    assert main(shlex.split(command)) == 0
    assert same_adapter(run.directory, whole)
    assert run.steps == list(range(1, 13))


def test_before_the_first_step_nothing_is_left(tmp_path):
    run = Run(tmp_path / "run")
    run.wait_for(lambda: str(run.directory) in run.output)
    time.sleep(2)  # among the imports
    assert run.stop(signal.SIGINT) == 130
    assert "Traceback" not in run.output
    assert run.output.rstrip().endswith("trl-ext: interrupted. Nothing was trained yet.")
    assert not run.directory.exists()


def test_a_second_signal_leaves_the_checkpoint_before_and_no_process(whole, tmp_path):
    run = Run(tmp_path / "run", "--save_strategy", "steps", "--save_steps", "2", "--dataloader_num_workers", "2")
    run.wait_for(lambda: (run.directory / "checkpoint-2").exists())
    workers = run.children()
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.4)
    assert run.stop(signal.SIGTERM) == 130
    assert "Traceback" not in run.output and "Continue: trl-ext run" in run.output.splitlines()[-1]
    assert len(workers) >= 2 and all_gone(workers, within=3)
    again = ["--output_dir", str(run.directory), "--resume_from_checkpoint", "true"]
    assert main(["run", str(run.directory / "recipe.resolved.yaml"), *again]) == 0
    assert same_adapter(run.directory, whole)


def test_dataloader_workers_do_not_outlive_a_killed_run(tmp_path):
    run = Run(tmp_path / "run", "--dataloader_num_workers", "2")
    run.wait_for_step(1)
    workers = run.children()
    assert run.stop(signal.SIGKILL) == -signal.SIGKILL
    assert len(workers) >= 2 and all_gone(workers, within=3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_processes_stop_after_the_same_step(number, tmp_path):
    """Whether their launcher hands the signal on or is killed itself."""
    run = Run(tmp_path / "run", launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"))
    run.wait_for_step(2)
    ranks = run.children()
    run.stop(number)
    assert len(ranks) >= 2 and all_gone(ranks, within=90)
    (checkpoint,) = run.directory.glob("checkpoint-*")
    step = int(checkpoint.name.rpartition("-")[2])
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == step
    assert {path.name for path in checkpoint.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert not (run.directory / "adapter_config.json").exists()
    (command,) = re.findall("trl-ext: interrupted. Kept: .* Continue: torchrun (.+)", run.output)
    if number == signal.SIGTERM:
        again = [sys.executable, "-m", "torch.distributed.run", *shlex.split(command)]
        subprocess.run(again, check=True, capture_output=True, timeout=120)
        assert run.steps == list(range(1, 13)) and (run.directory / "adapter_config.json").exists()
