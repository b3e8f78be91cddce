"""SmolLM2-135M-Instruct in 4 bits and the shortest dialogues of HH: what `make real-model` and TRL_EXT_DATA provide."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.real import model

TRAINED, HELD_OUT = 2, 3
"""Pairs. Every step of a run takes all that are trained on, so its loss is known from the weights before it."""


@pytest.fixture(scope="session")
def real_model() -> str:
    if not model.is_complete(model.folder()):
        pytest.skip("SmolLM2-135M-Instruct is not here: `make real-model` fetches it")
    return str(model.folder())


@pytest.fixture(scope="session")
def dialogues(real_data) -> list[dict[str, str]]:
    """The shortest pairs of one question and two answers of several words."""
    with gzip.open(real_data / "hh_harmless_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    answers = [[row[side].split("\n\nAssistant:")[1:] for side in ("chosen", "rejected")] for row in rows]
    fit = [
        row
        for row, (chosen, rejected) in zip(rows, answers, strict=True)
        if len(chosen) == len(rejected) == 1 and min(len(chosen[0]), len(rejected[0])) > 25
    ]
    return sorted(fit, key=lambda row: len(row["chosen"] + row["rejected"]))[: TRAINED + HELD_OUT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dialogues) -> Path:
    """Holds `train.jsonl` and `held_out.jsonl`, and takes the runs."""
    place = tmp_path_factory.mktemp("real")
    for name, rows in (("train", dialogues[:TRAINED]), ("held_out", dialogues[TRAINED:])):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture(scope="module")
def recipe(real_model, folder) -> Callable[..., str]:
    """Writes a recipe of three steps, as those for this model are; returns its path."""

    def write(name: str, **settings: Any) -> str:
        values = {
            "model_name_or_path": real_model,
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "use_bnb_nested_quant": True,
            "use_peft": True,
            "lora_r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.0,
            "lora_target_modules": "all-linear",
            "dataset_name": str(folder / "train.jsonl"),
            "per_device_train_batch_size": TRAINED,
            "gradient_checkpointing": False,
            "max_steps": 3,
            "learning_rate": 2e-4,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "output_dir": str(folder / name),
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values | settings))
        return str(path)

    return write
