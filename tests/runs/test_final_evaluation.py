"""The evaluation at the end of a run: what fails or is killed there never costs the run, and is not trained again."""

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset

from tests.conftest import pairs
from trl_ext.cli import eval, main
from trl_ext.runs import pending
from trl_ext.support.errors import UserError


def parameters() -> int:
    """How many weights are in memory."""
    return sum(isinstance(each, torch.nn.Parameter) for each in gc.get_objects())


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    """A run of one step whose evaluation fails: its folder, and what was seen there."""
    folder = tmp_path_factory.mktemp("trained")
    seen = {}

    def fail(console, directory):
        seen["parameters"] = parameters()
        seen["files"] = {path.name for path in directory.iterdir()}
        raise UserError("The judge m cannot be reached.")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(eval, "of_recipe", fail)
        Dataset.from_list(pairs(8)).to_json("pairs.jsonl")
        Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": f"the {i}"}) + "\n" for i in range(3)))
        settings = {
            "model_name_or_path": tiny_model, "dataset_name": "pairs.jsonl", "use_peft": True, "lora_r": 4, "max_steps": 1,
            "lora_target_modules": "all-linear", "per_device_train_batch_size": 4, "max_length": 32, "save_strategy": "no",
            "disable_tqdm": True, "loss": "dpo", "evaluation": {
                "judge": "judge.py", "prompts": "prompts.jsonl", "samples": 3, "max_new_tokens": 4,
            },
        }  # fmt: skip
        Path("judge.py").write_text(
            "def longer(completions, **kwargs):\n    return [len(str(text)) for text in completions]\n"
        )
        Path("small.yaml").write_text(yaml.safe_dump(settings))
        gc.collect()  # models of earlier tests
        seen["before"] = parameters()
        seen["code"] = main(["run", "small.yaml"])
    return folder, seen


@pytest.fixture
def run(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    return Path("runs", "small-dpo")


def test_a_failure_leaves_a_complete_run(trained, run):
    _, seen = trained
    assert seen["code"] == 2
    complete = {"adapter_model.safetensors", "recipe.resolved.yaml", "README.md", "curves.png", "metrics.jsonl"}
    assert seen["files"] >= complete and pending.FILE not in seen["files"]
    log = (run / "run.log").read_text()
    assert (
        "ended early: The run in runs/small-dpo is complete, but its evaluation failed. The judge m cannot be reached. Repeat it "
        "with: trl-ext eval runs/small-dpo"
    ) in log


def test_the_trained_model_is_out_of_memory_by_then(trained):
    assert trained[1]["parameters"] == trained[1]["before"]


def test_the_same_command_continues_with_the_evaluation(trained, run, monkeypatch, capsys):
    """Killed once, as an out-of-memory killer does; then carried out. No step is trained."""
    from trl_ext.runs import run as job

    adapter = (run / "adapter_model.safetensors").read_bytes()
    (run.parent.parent / "kill.py").write_text(
        "import os, signal, sys\nfrom trl_ext.evaluation import judged\n"
        "judged.pair = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from trl_ext.cli import main\nsys.exit(main())\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(eval.__file__).parents[2]), *sys.path])}
    killed = subprocess.run(
        [sys.executable, "kill.py", "run", "small.yaml"], env=environment, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "runs/small-dpo is trained, and its evaluation is not complete: it continues now." in " ".join(
        killed.stdout.split()
    )
    samples = next(run.glob("samples-*.jsonl")).read_text()

    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(job, "_run", refuse)
    assert main(["run", "small.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "all answers were kept by an earlier evaluation" in printed and "next:" in printed
    assert next(run.glob("samples-*.jsonl")).read_text() == samples
    record = json.loads((run / "judged-longer.json").read_text())
    assert record["wins"] + record["ties"] + record["losses"] == 3
    assert (run / "adapter_model.safetensors").read_bytes() == adapter
    assert {path.name for path in run.parent.iterdir()} == {"small-dpo"}
    assert "judge.py" in (run / "run.log").read_text().rpartition("=== ")[2]  # what is printed is in the log
    with pytest.raises(AssertionError, match="trained again"):
        main(["run", "small.yaml"])  # all is complete: this trains another run


def test_eval_repeats_it_and_flags_come_first(trained, run, capsys):
    assert main(["eval", str(run)]) == 0
    printed = capsys.readouterr().out
    assert (
        printed.startswith("As `evaluation` in the recipe of the run says: judge: ")
        and "judged-longer.json" in printed
    )
    assert json.loads((run / pending.FILE).read_text())["evaluation"]["samples"] == 3
    assert main(["eval", str(run), "--samples", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"]["n"] == 2
    (run / pending.FILE).unlink()
    assert main(["eval", str(run), "--samples", "2"]) == 0 and not (run / pending.FILE).exists()


def test_an_error_of_another_kind(run, monkeypatch, capsys):
    def fail(console, directory):
        raise RuntimeError("cuBLAS failed.\nDetails")

    monkeypatch.setattr(eval, "of_recipe", fail)
    (run / pending.FILE).unlink(missing_ok=True)
    assert main(["run", "small.yaml", "--output_dir", str(run)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "its evaluation failed. RuntimeError: cuBLAS failed. The traceback is in run.log. Repeat it with:" in said
    assert "Traceback" in (run / "run.log").read_text()


def test_a_signal(run, monkeypatch, capsys):
    def stop(console, directory):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not stopped")

    monkeypatch.setattr(eval, "of_recipe", stop)
    (run / pending.FILE).unlink(missing_ok=True)
    assert main(["run", "small.yaml", "--output_dir", str(run)]) == 130
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"The run in {run} is complete. Its evaluation is not" in said and f"Continue with: trl-ext eval {run}" in said
    )
