"""Checkpoints are whole or not there: killed at any moment of a save, out of disk, pushed, the best one kept."""

import errno
import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from datasets import Dataset
from safetensors import SafetensorError
from transformers import AutoTokenizer

from tests.conftest import pairs
from tests.runs.test_hub import Hub
from tests.trainers.helpers import arguments, build, lora, weights
from trl_ext.checkpoints import found, manifest, staging
from trl_ext.support.errors import UserError
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.sft_and_reward import RewardModelConfig, RewardModelTrainer, SupervisedConfig, SupervisedTrainer

EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "optim": "adamw_torch"}


class KilledError(BaseException):
    """Ends a run where it is; no handler of the code under test catches it."""


def paired(model, folder, **changes):
    config = PairedPreferenceConfig(**arguments(folder, **{**EVERY_STEP, **changes}))
    return build(PairedPreferenceTrainer, config, model)


def stage(cls, config_class, model, folder, peft_config, **changes):
    rows = pairs(16)
    if cls is SupervisedTrainer:
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    return cls(
        model=model,
        args=config_class(**arguments(folder, **{**EVERY_STEP, **changes})),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=peft_config,
    )


BUILDERS = {
    "paired": paired,
    "unpaired": lambda model, folder, **changes: build(
        UnpairedPreferenceTrainer,
        UnpairedPreferenceConfig(**arguments(folder, **{**EVERY_STEP, **changes})),
        model,
        examples=[
            {"prompt": p["prompt"], "completion": p["chosen"], "label": i % 2 == 0} for i, p in enumerate(pairs(24))
        ],
    ),
    "sft": lambda *given, **changes: stage(SupervisedTrainer, SupervisedConfig, *given, lora(), **changes),
    "reward": lambda *given, **changes: stage(
        RewardModelTrainer, RewardModelConfig, *given, lora(task_type="SEQ_CLS", modules_to_save=["score"]), **changes
    ),
}


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_checkpoint_of_any_trainer_is_listed_whole_and_goes_on_to_the_same_weights(kind, tiny_model, tmp_path):
    trainer = BUILDERS[kind](tiny_model, tmp_path / "run", save_total_limit=2)
    trainer.train()
    expected = weights(trainer)
    names = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert names == {"checkpoint-2", "checkpoint-3"}  # the older one and the staging folder are gone
    checkpoint = tmp_path / "run" / "checkpoint-2"
    listed = manifest.read(checkpoint)["files"]
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", manifest.STATE} <= set(
        listed
    )
    there = {path.name for path in checkpoint.iterdir()} - {manifest.FILE, "README.md"}
    assert there == set(listed) and manifest.damage(checkpoint) is None
    resumed = BUILDERS[kind](tiny_model, tmp_path / "resumed", save_total_limit=2)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert [name for name, value in weights(resumed).items() if not torch.equal(value, expected[name])] == []


def killing(monkeypatch, moment):
    """Raise at a moment of the second save. Returns what counts the moments."""
    state = {"saves": 0, "moment": 0}

    def watched(owner, name, before=lambda *a: None):
        real = getattr(owner, name)

        def replacement(*args, **kwargs):
            if state["saves"] == 2:
                if state["moment"] == moment:
                    before(*args)
                    raise KilledError
                state["moment"] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, replacement)

    def half_a_file(content, file, *_):
        Path(file).write_bytes(b"PK\x03\x04 half")

    save = PairedPreferenceTrainer._save_checkpoint

    def counted(self, *args):
        state["saves"] += 1
        return save(self, *args)

    monkeypatch.setattr(PairedPreferenceTrainer, "_save_checkpoint", counted)
    watched(torch, "save", half_a_file)
    watched(safetensors.torch, "serialize_file", half_a_file)
    watched(transformers.TrainerState, "save_to_json", lambda self, path: Path(path).write_text("{"))
    watched(manifest, "write", lambda folder, facts: (folder / manifest.FILE).write_text("{"))
    watched(os, "fsync")
    watched(Path, "rename")
    watched(shutil, "rmtree")
    return state


def test_killed_at_any_moment_of_a_save_a_whole_checkpoint_is_left(tiny_model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        state = killing(patch, moment=None)
        paired(tiny_model, tmp_path / "whole", max_steps=2).train()
    moments = state["moment"]
    assert moments > 20  # each file written, each file synced, the renaming, the removals
    left = []
    for moment in range(moments):
        run = tmp_path / f"killed-{moment}"
        with monkeypatch.context() as patch:
            killing(patch, moment)
            with pytest.raises(KilledError):
                paired(tiny_model, run, max_steps=2).train()
        kept = found.latest(run)
        assert kept is not None and manifest.damage(kept) is None
        left.append(kept.name)
        assert found.newest_first(run)[0] == kept  # nothing half-written has a checkpoint's name
    assert left == sorted(left) and set(left) == {"checkpoint-1", "checkpoint-2"}
    # Going on in such a directory clears it up, and ends where the uninterrupted run did.
    run = tmp_path / f"killed-{left.index('checkpoint-2') - 3}"
    assert (run / staging.FOLDER).exists()
    resumed = paired(tiny_model, run, max_steps=2)
    resumed.train(resume_from_checkpoint=True)
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"checkpoint-2"}
    expected, measured = (
        (tmp_path / name / "checkpoint-2" / "adapter_model.safetensors").read_bytes() for name in ("whole", run.name)
    )
    assert expected == measured


WRITERS = {
    "torch": (torch, "save"),
    "safetensors": (safetensors.torch, "serialize_file"),
    "python": (transformers.TrainerState, "save_to_json"),
}


def no_room_for(writer, monkeypatch):
    """Let a library's own write fail where the system refuses it: files may grow to 100 bytes while it writes."""
    owner, name = WRITERS[writer]
    real = getattr(owner, name)

    def limited(*args, **kwargs):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            return real(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(owner, name, limited)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_stops_the_run_in_one_sentence_and_keeps_the_older_checkpoint(
    writer, tiny_model, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        no_room_for(writer, patch)
        with pytest.raises(
            UserError, match=r"room on the disk for the checkpoint of step 1 .* There is no earlier checkpoint"
        ):
            paired(tiny_model, tmp_path).train()
    assert not (tmp_path / staging.FOLDER).exists()
    paired(tiny_model, tmp_path, max_steps=1).train()
    with monkeypatch.context() as patch:
        no_room_for(writer, patch)
        with pytest.raises(
            UserError, match=r"checkpoint of step 2 .*Free some space and resume .*checkpoint-1, which is complete"
        ) as caught:
            paired(tiny_model, tmp_path).train(resume_from_checkpoint=True)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["checkpoint-1"]
    assert manifest.damage(tmp_path / "checkpoint-1") is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_through_what_wraps_it(number):
    """As Python, safetensors 0.8 and torch 2.13 put it."""
    direct = OSError(number, os.strerror(number))
    wrapped = SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
    silent = RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0")
    caused = ValueError("saving failed")
    caused.__cause__ = direct
    assert all(map(staging.is_disk_full, (direct, wrapped, silent, caused)))
    assert not any(
        map(staging.is_disk_full, (OSError(errno.EACCES, "denied"), RuntimeError("CUDA error"), KeyError("x")))
    )


def test_other_errors_in_a_save_are_not_taken_for_a_full_disk(tiny_model, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("the network is gone")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="the network is gone"):
        paired(tiny_model, tmp_path).train()


def test_the_best_checkpoint_is_kept_under_its_own_name(tiny_model, tmp_path, monkeypatch):
    losses = iter([0.5, 0.9, 0.8])
    judge = PairedPreferenceTrainer._determine_best_metric
    monkeypatch.setattr(
        PairedPreferenceTrainer,
        "_determine_best_metric",
        lambda self, metrics, trial: judge(self, {"eval_loss": next(losses)}, trial),
    )
    best = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "metric_for_best_model": "loss"}
    config = PairedPreferenceConfig(**arguments(tmp_path, **EVERY_STEP, **best))
    trainer = build(PairedPreferenceTrainer, config, tiny_model, eval_dataset=Dataset.from_list(pairs(4)))
    trainer.train()
    expected = str(tmp_path / "checkpoint-1")
    assert trainer.state.best_model_checkpoint == expected
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["checkpoint-1"]
    noted = json.loads((tmp_path / "checkpoint-1" / manifest.STATE).read_text())
    assert noted["best_model_checkpoint"] == expected
    saved = safetensors.torch.load_file(tmp_path / "checkpoint-1" / "adapter_model.safetensors")
    for name, value in weights(trainer).items():
        assert torch.equal(value, saved[name.replace(".default", "")])


def test_what_is_pushed_is_the_finished_checkpoint(tiny_model, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        transformers.Trainer,
        "_push_from_checkpoint",
        lambda self, folder: pushed.append((Path(folder).name, manifest.damage(Path(folder)))),
    )
    monkeypatch.setattr(transformers.Trainer, "_finish_current_push", lambda self: None)
    trainer = paired(tiny_model, tmp_path, max_steps=2)
    trainer.args.push_to_hub = True
    trainer.train()
    assert pushed == [("checkpoint-1", None), ("checkpoint-2", None)]


def test_nothing_else_in_the_directory_of_a_run_is_pushed(tiny_model, tmp_path, monkeypatch):
    """A run that is resumed has files of an earlier evaluation and export beside it."""
    hub = Hub(monkeypatch)
    trainer = paired(tiny_model, tmp_path, max_steps=1)
    trainer.train()
    (tmp_path / "gguf").mkdir()
    for name in ("samples-0a1b.jsonl", "judged-a.json", "run.log", "gguf/x.gguf", ".env", "recipe.resolved.yaml"):
        (tmp_path / name).write_text("")
    trainer.args.push_to_hub, trainer.hub_model_id, trainer.push_in_progress = True, "me/run", None
    monkeypatch.setattr(transformers.Trainer, "_finish_current_push", lambda self: None)
    trainer._push_from_checkpoint(str(tmp_path / "checkpoint-1"))
    trainer.push_to_hub()
    model = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    for repository, sent, _ in hub.commits:
        assert repository == "me/run" and sent >= model | {"judged-a.json", "recipe.resolved.yaml"}
        assert not sent & {"samples-0a1b.jsonl", "run.log", "gguf/x.gguf", ".env", "training_args.bin"}
    assert len(hub.commits) == 2
