"""Where a run resumes, and what `trl-ext run` says before it loads anything."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.runs.test_run import recipe  # noqa: F401  (a fixture)
from trl_ext.checkpoints import manifest
from trl_ext.cli import main
from trl_ext.recipe import load
from trl_ext.report import curves, metrics_file
from trl_ext.runs import lock
from trl_ext.runs import resume as runs
from trl_ext.support.errors import UserError
from trl_ext.trainers import PairedPreferenceTrainer


@pytest.fixture
def saved(recipe, tmp_path):  # noqa: F811
    """The recipe of a run in `out` that holds checkpoints 1 and 2."""
    path = recipe(save_strategy="steps", save_steps=1)
    assert main(["run", path, "--output_dir", "out"]) == 0
    return path


def test_a_change_is_refused_before_weights_are_loaded_and_can_be_allowed(saved, tmp_path, capsys, monkeypatch):
    resume = ["run", saved, "--output_dir", "out", "--resume_from_checkpoint", "out/checkpoint-1"]
    with monkeypatch.context() as patch:
        patch.setattr("trl_ext.build.trainer.load_policy", None)
        assert main([*resume, "--beta", "0.3", "--learning_rate", "1e-3"]) == 2
        printed = capsys.readouterr().err
        assert "`learning_rate` 0.0005 → 0.001" in printed and "`beta` 0.1 → 0.3" in printed
        (tmp_path / "out" / "checkpoint-1" / "optimizer.pt").unlink()
        assert main(resume) == 2
        assert "optimizer.pt is missing. Resume out/checkpoint-2 instead" in capsys.readouterr().err
    resume[-1] = "out/checkpoint-2"
    assert main([*resume, "--beta", "0.3", "--resume_changed", "true", "--max_steps", "3"]) == 0
    assert "with changed settings (`resume_changed`): " in capsys.readouterr().out
    assert "resume_changed" not in (tmp_path / "out" / "recipe.resolved.yaml").read_text()


def test_a_change_only_the_model_shows_leaves_the_run_as_it_was(saved, tmp_path, capsys):
    before = (tmp_path / "out" / "recipe.resolved.yaml").read_bytes()
    assert main(["run", saved, "--output_dir", "out", "--resume_from_checkpoint", "true", "--lora_r", "8"]) == 2
    assert "`lora_r` 4 → 8" in capsys.readouterr().err
    assert (tmp_path / "out" / "recipe.resolved.yaml").read_bytes() == before


def test_a_full_disk_anywhere_in_a_run_ends_it_in_one_sentence(recipe, tmp_path, capsys, monkeypatch):  # noqa: F811
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = recipe(save_strategy="steps", save_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        patch.setattr(curves, "draw", full)
        assert main(["run", path, "--output_dir", "a"]) == 2
    assert "no room on the disk for the checkpoint of step 1 in a" in capsys.readouterr().err
    monkeypatch.setattr(
        PairedPreferenceTrainer, "save_model", full_at_the_end(PairedPreferenceTrainer.save_model, full)
    )
    assert main(["run", path, "--output_dir", "b"]) == 2
    assert "The disk of b is full. Free some space. Last checkpoint: b/checkpoint-2." in capsys.readouterr().err


def full_at_the_end(save_model, full):
    """Saves checkpoints, not the result."""
    return lambda self, folder=None, **kwargs: (save_model if kwargs else full)(self, folder, **kwargs)


def test_the_manifest_names_the_recipe(saved, tmp_path):
    read = [manifest.read(tmp_path / "out" / f"checkpoint-{step}") for step in (1, 2)]
    assert len(read[0]["recipe"]) == 16 and read[0]["recipe"] == read[1]["recipe"]
    assert load(saved).digest() != load(saved, {"beta": 0.3}).digest()


def test_a_resume_takes_the_latest_whole_checkpoint(saved, tmp_path):
    directory = tmp_path / "out"
    (directory / "_unfinished" / "checkpoint-9").mkdir(parents=True)
    assert runs.latest_checkpoint(directory) == str(directory / "checkpoint-2")
    flags = {"output_dir": str(directory), "resume_from_checkpoint": True}
    assert runs.run_directory(load(saved, flags)) == (directory, str(directory / "checkpoint-2"))
    (directory / "checkpoint-2" / "scheduler.pt").write_bytes(b"")
    assert runs.latest_checkpoint(directory) == str(directory / "checkpoint-1")
    (directory / "checkpoint-1" / "trainer_state.json").unlink()
    with pytest.raises(
        UserError, match=r"no complete checkpoint \(checkpoint-2: scheduler.pt has 0 bytes .*; checkpoint-1: "
    ):
        runs.run_directory(load(saved, flags))
    assert "No checkpoint has been saved yet (`save_steps: 1`), so the run cannot" in runs.how_to_resume(
        directory, load(saved)
    )
    unsaved = load(saved, {"save_strategy": "no"})
    assert "The recipe saves no checkpoints (`save_strategy: no`), so" in runs.how_to_resume(directory, unsaved)


def test_a_resume_counts_on_and_keeps_the_recipes_name(saved, tmp_path, capsys):
    out = tmp_path / "out"
    seconds = [manifest.read(out / f"checkpoint-{step}")["seconds"] for step in (1, 2)]
    assert 0 < seconds[0] < seconds[1]
    path = out / "checkpoint-1" / manifest.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 5000.0}))
    capsys.readouterr()
    again = ["--output_dir", "out", "--resume_from_checkpoint", "out/checkpoint-1"]
    assert main(["run", "out/recipe.resolved.yaml", *again]) == 0
    printed = capsys.readouterr().out
    (said,) = re.findall(r"trained 2 steps in (\d+) s", printed)
    assert int(said) >= 5000 and "small: dpo → out" in printed
    logged = {record["step"]: record["seconds"] for record in metrics_file.read(out / "metrics.jsonl")}
    assert logged[1] < 5000 <= logged[2]
    assert "| recipe | `small` |" in (out / "README.md").read_text()
    assert (out / "recipe.resolved.yaml").read_text().startswith("# small.yaml with everything merged.")


def test_a_run_that_ended_before_it_wrote_its_adapter_only_writes_it(saved, tmp_path, capsys):
    ended = shutil.copytree(tmp_path / "out", tmp_path / "ended")
    (ended / "adapter_model.safetensors").unlink()
    assert main(["run", saved, "--output_dir", "ended", "--resume_from_checkpoint", "true"]) == 0
    assert "nothing is left to train" in capsys.readouterr().out
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "ended"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    steps = [json.loads(line)["step"] for line in (ended / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2]


def test_a_rerun_points_at_the_run_that_stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text("model_name_or_path: embedded\ndataset_name: embedded\nmax_steps: 9\nsave_steps: 1\n")
    rerun = load(path)
    first = Path("runs/small-dpo")
    assert runs.left_behind(rerun, first) is None
    a_checkpoint(first, step=4)
    directory, checkpoint = runs.run_directory(rerun)
    assert (directory, checkpoint) == (Path("runs/small-dpo-2"), None)
    said = runs.left_behind(rerun, directory)
    assert said.startswith("runs/small-dpo holds an earlier run of this recipe, which stopped after step 4 of 9.")
    assert said.endswith(
        "in runs/small-dpo-2. Last checkpoint: runs/small-dpo/checkpoint-4. Resume with: trl-ext run "
        "runs/small-dpo/recipe.resolved.yaml --output_dir runs/small-dpo --resume_from_checkpoint true"
    )
    named = load(path, {"output_dir": "runs/small-dpo"})
    with pytest.raises(
        UserError, match=r"already holds a run, which stopped after step 4 of 9\. .* Resume with: trl-ext"
    ):
        runs.run_directory(named)
    with lock.writing(first):  # it is running
        assert runs.left_behind(rerun, directory) is None
    (first / "adapter_config.json").touch()
    assert runs.left_behind(rerun, directory) is None
    with pytest.raises(UserError, match=r"already holds a run, which is finished\. Choose another"):
        runs.run_directory(named)


def test_a_run_that_stopped_before_its_first_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text("model_name_or_path: embedded\ndataset_name: embedded\n")
    Path("here").mkdir()
    Path("here/recipe.resolved.yaml").touch()
    with pytest.raises(
        UserError, match=r"stopped before its first checkpoint and cannot be resumed\. Remove the folder"
    ):
        runs.run_directory(load(path, {"output_dir": "here"}))


def test_a_resume_says_at_which_step(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("model_name_or_path: embedded\ndataset_name: embedded\n")
    same, run = load(path), tmp_path / "run"
    checkpoint = a_checkpoint(run, step=4)
    assert runs.where_it_continues(same, run, checkpoint).endswith("checkpoint-4: step 4 of 9 is done, 5 are left.")
    longer = load(path, {"max_steps": 12})
    assert runs.where_it_continues(longer, run, checkpoint).endswith("step 4 of 12 is done, 8 are left.")
    shorter = load(path, {"max_steps": 4})
    assert "all 4 steps are done. Nothing is left to train" in runs.where_it_continues(shorter, run, checkpoint)
    (run / "adapter_config.json").touch()
    assert "was finished; its result is replaced" in runs.where_it_continues(same, run, checkpoint)


def a_checkpoint(run, step):
    """A whole checkpoint of a run of nine steps."""
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (run / "recipe.resolved.yaml").touch()
    (folder / manifest.STATE).write_text(json.dumps({"global_step": step, "max_steps": 9}))
    manifest.write(folder, {"step": step})
    return folder
