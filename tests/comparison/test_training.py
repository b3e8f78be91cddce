"""Runs that share a base are the runs they would be alone; what is finished is not repeated."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from trl_ext.build import pretrained
from trl_ext.comparison import training
from trl_ext.comparison.grid import cells
from trl_ext.runs import run
from trl_ext.support.errors import UserError

QUICK = {"max_steps": 3, "max_train_samples": 64, "per_device_train_batch_size": 8, "disable_tqdm": True}
QUICK |= {"lora_target_modules": ["q_proj", "down_proj"]}
DEMO = "recipes/demo.yaml"
SILENT = Console(quiet=True)


class FakeEvaluator:
    """Records the number of steps only."""

    settings: ClassVar = {"rows": 1}

    def evaluate_trained(self, cell, trained):
        return {"name": cell.name, "steps": trained.built.trainer.state.global_step}

    def evaluate_finished(self, name, directory):
        return {"evaluation": f"{name} again"}


def adapter(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Four losses on one base, with what was loaded and what the reference cache gave."""
    directory = tmp_path_factory.mktemp("compared")
    loaded, counts = [], {}
    create = pretrained.load

    def counting(*args, **kwargs):
        loaded.append(args)
        return create(*args, **kwargs)

    class Counting(FakeEvaluator):
        def evaluate_trained(self, cell, trained):
            counts[cell.name] = trained.counts
            assert trained.moved is None  # a comparison does not show it, so it is not measured
            return super().evaluate_trained(cell, trained)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "load", counting)
        patch.setenv("TRL_EXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        settings = QUICK | {"gradient_checkpointing": True}
        training.train(cells(DEMO, settings, "dpo,ipo,simpo,kto"), directory, SILENT, Counting())
    return directory, loaded, counts


def test_the_base_is_loaded_once(compared):
    assert len(compared[1]) == 1


def test_every_run_leaves_its_curves(compared):
    assert all((compared[0] / loss / "curves.png").stat().st_size for loss in ("dpo", "ipo", "simpo", "kto"))


def test_later_losses_take_the_reference_from_the_cache(compared):
    counts = compared[2]
    assert counts["dpo"][1] > 0
    assert counts["ipo"] == (counts["dpo"][1], 0)
    assert counts["simpo"] is None  # reads no reference
    assert counts["kto"][0] > 0  # mismatched answers are new to it


@pytest.mark.parametrize("loss", ["dpo", "simpo", "kto"])
def test_each_is_the_run_it_would_be_alone(compared, loss, tmp_path):
    """Bit for bit, whatever was trained on the base before."""
    overrides = QUICK | {"gradient_checkpointing": True, "loss": loss, "output_dir": str(tmp_path / "alone")}
    assert run.main(DEMO, overrides) == 0
    alone, shared = adapter(tmp_path / "alone"), adapter(compared[0] / loss)
    assert alone.keys() == shared.keys() and all(torch.equal(alone[name], shared[name]) for name in alone)


def test_what_is_finished_is_not_repeated(compared, monkeypatch):
    trained = []
    monkeypatch.setattr(run, "train", lambda recipe, *_: trained.append(recipe.loss) or pytest.fail("trained again"))
    settings = QUICK | {"gradient_checkpointing": True}
    found = training.train(cells(DEMO, settings, "dpo,ipo,simpo,kto"), compared[0], SILENT, FakeEvaluator())
    names = ("dpo", "ipo", "simpo", "kto")
    known = [{key: each[key] for key in ("name", "steps", "asked")} for each in found]
    assert known == [{"name": name, "steps": 3, "asked": FakeEvaluator.settings} for name in names] and not trained
    assert [each["command"].split(" --lora")[0] for each in found][1].startswith(
        "trl-ext run recipes/demo.yaml --max_steps 3"
    )
    assert [each["beta"] for each in found] == [1.0, 4.0, 2.0, 1.0] and found[2]["learning_rate"] == 3e-4


def test_another_measurement_is_made_without_training(compared, monkeypatch):
    monkeypatch.setattr(run, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(FakeEvaluator, "settings", {"rows": 2})
    for _ in range(2):  # the second time it is known
        found = training.train(
            cells(DEMO, QUICK | {"gradient_checkpointing": True}, "dpo,ipo"), compared[0], SILENT, FakeEvaluator()
        )
        assert [each["evaluation"] for each in found] == ["dpo again", "ipo again"] and found[0]["steps"] == 3
        monkeypatch.setattr(FakeEvaluator, "evaluate_finished", lambda *_: pytest.fail("measured again"))


def test_an_interrupted_run_goes_on_and_an_abandoned_one_starts_again(tmp_path):
    grid = cells(DEMO, QUICK | {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}, "dpo,simpo")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training.train(grid, whole, SILENT, FakeEvaluator())

    class Stopped(FakeEvaluator):
        def evaluate_trained(self, cell, trained):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(grid, parts, SILENT, Stopped())
    (parts / "dpo" / "checkpoint-4").rename(tmp_path / "lost")  # as if stopped after the checkpoint of step 2
    (parts / "simpo").mkdir()
    (parts / "simpo" / "leftover").touch()
    found = training.train(grid, parts, SILENT, FakeEvaluator())
    assert [json.loads((parts / name / "measured.json").read_text())["steps"] for name in ("dpo", "simpo")] == [4, 4]
    assert [each["name"] for each in found] == ["dpo", "simpo"] and not (parts / "simpo" / "leftover").exists()
    for name in ("dpo", "simpo"):
        alone, resumed = adapter(whole / name), adapter(parts / name)
        assert all(torch.equal(alone[key], resumed[key]) for key in alone)


def test_another_grid_in_the_same_directory_is_refused(compared):
    grid = cells(DEMO, QUICK | {"gradient_checkpointing": True}, "dpo,ipo")
    training.refuse_others(grid, compared[0])
    grid = cells(DEMO, QUICK | {"gradient_checkpointing": True, "learning_rate": 1e-3}, "dpo,ipo")
    with pytest.raises(UserError, match=r"learning_rate was 0\.0005 and is 0\.001"):
        training.refuse_others(grid, compared[0])
