"""Whole runs that are stopped by signals, and go on as if they had not been."""

import json
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

from tests.old_versions import skip_without_resume_on_two_cpus
from tests.runs.test_signals import ended_by, gone, heeded_signals  # noqa: F401
from trl_ext.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "recipes" / "demo.yaml")
SETTINGS = [
    *("--max_steps", "12", "--logging_steps", "1", "--per_device_train_batch_size", "8", "--max_train_samples", "80"),
    *("--row_tokens", "256", "--use_cpu", "true", "--disable_tqdm", "true"),
]
PATIENCE = 600
"""Seconds: how long a loaded machine may take for what should take a few."""


class Run:
    """A run in a process of its own, which waits at a place (see `paused.py`); its output goes into a file."""

    def __init__(self, directory: Path, place: str, *settings: str, launcher: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.log = directory.with_suffix(".log")
        command = [sys.executable, *launcher, "-m", "tests.runs.paused", place, "run", RECIPE, *SETTINGS]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--output_dir", str(directory), *settings],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
            )

    def wait_for(self, condition) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None and time.monotonic() < end, self.output[-3000:]
            time.sleep(0.02)

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.steps and self.steps[-1] >= step)

    def stop(self, number: int) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE)

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def steps(self) -> list[int]:
        """Steps whose metrics are there, the closing summary not counted."""
        path = self.directory / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be half written
        return [record["step"] for record in records if "loss" in record]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def same_adapter(a: Path, b: Path) -> bool:
    one, other = (load_file(directory / "adapter_model.safetensors") for directory in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def start(tmp_path):
    """Starts a run; whatever still runs at the end of the test is killed."""
    runs = []

    def one(place: str, *settings: str, launcher: tuple[str, ...] = ()) -> Run:
        runs.append(Run(tmp_path / "run", place, *settings, launcher=launcher))
        return runs[-1]

    yield one
    for run in runs:
        for process in [*run.children(), run.process] if run.process.poll() is None else []:
            process.kill()
        run.process.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing interrupts."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert main(["run", RECIPE, *SETTINGS, "--output_dir", str(directory)]) == 0
    return directory


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_to_the_same_adapter(number, whole, start):
    run = start("3")
    run.wait_for_step(3)
    assert run.stop(number) == 130
    assert "Traceback" not in run.output
    (line,) = [line for line in run.output.splitlines() if line.startswith("trl-ext: interrupted.")]
    kept, command = re.fullmatch(
        r"trl-ext: interrupted\. Last checkpoint: (\S+)\. Resume with: trl-ext (.+)", line
    ).groups()
    assert kept.endswith("checkpoint-4") and run.steps == [1, 2, 3, 4]
    assert (run.directory / "curves.png").exists()
    assert "The run has not finished. It has logged step 4 of 12" in (run.directory / "report.html").read_text()
    assert not (run.directory / "adapter_config.json").exists()  # it would look finished

    assert main(shlex.split(command)) == 0
    assert same_adapter(run.directory, whole)
    assert run.steps == list(range(1, 13))


def test_before_the_first_step_nothing_is_left(start):
    run = start("trl.trainer.dpo_trainer")
    run.wait_for(lambda: "waiting before trl.trainer.dpo_trainer" in run.output)
    assert str(run.directory) in run.output
    assert run.stop(signal.SIGINT) == 130
    assert "Traceback" not in run.output
    assert run.output.rstrip().endswith("trl-ext: interrupted. Nothing was trained yet.")
    assert not run.directory.exists()


def test_a_second_signal_leaves_the_checkpoint_before_and_no_process(whole, start):
    run = start("deaf-3", "--save_strategy", "steps", "--save_steps", "2", "--dataloader_num_workers", "2")
    run.wait_for_step(3)
    workers = run.children()
    run.process.send_signal(signal.SIGTERM)
    run.wait_for(lambda: "Send it again to stop immediately" in run.output)
    assert ended_by(signal.SIGTERM, run.process) == 130
    assert "Traceback" not in run.output and "stopped immediately. Last checkpoint: " in run.output
    assert "Resume with: trl-ext run" in run.output.splitlines()[-1]
    assert len(workers) >= 2 and gone(workers)
    again = ["--output_dir", str(run.directory), "--resume_from_checkpoint", "true"]
    assert main(["run", str(run.directory / "recipe.resolved.yaml"), *again]) == 0
    assert same_adapter(run.directory, whole)


def test_dataloader_workers_do_not_outlive_a_killed_run(start):
    run = start("1", "--dataloader_num_workers", "2")
    run.wait_for_step(1)
    workers = run.children()
    assert run.stop(signal.SIGKILL) == -signal.SIGKILL
    assert len(workers) >= 2 and gone(workers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_processes_stop_after_the_same_step(number, start):
    """Whether their launcher hands the signal on or is killed itself."""
    skip_without_resume_on_two_cpus()
    torchrun = ("-m", "torch.distributed.run", "--standalone")
    run = start("2", launcher=(*torchrun, "--nproc_per_node", "2"))
    run.wait_for_step(2)
    ranks = run.children()
    run.stop(number)
    assert len(ranks) >= 2 and gone(ranks)
    assert [path.name for path in run.directory.glob("checkpoint-*")] == ["checkpoint-3"]
    checkpoint = run.directory / "checkpoint-3"
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 3
    assert {path.name for path in checkpoint.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert not (run.directory / "adapter_config.json").exists()
    (command,) = re.findall("trl-ext: interrupted. Last checkpoint: .* Resume with: torchrun (.+)", run.output)
    if number == signal.SIGTERM:
        again = [sys.executable, *torchrun, *shlex.split(command)]
        done = subprocess.run(again, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        assert f"Evaluate it in one process: trl-ext eval {run.directory}" in done.stdout
        assert run.steps == list(range(1, 13)) and (run.directory / "adapter_config.json").exists()
