"""Every loss trains the embedded model in 4 bits on real preference data (HH harmless-base)."""

import math

import pytest
import torch
import yaml

from tests.trainers.helpers import swap_loss
from trl_ext import losses
from trl_ext.batching.packed import joined_tokens, pack_rows
from trl_ext.batching.padded import cut_rows
from trl_ext.build.trainer import build_trainer
from trl_ext.recipe import load


@pytest.fixture(scope="module")
def trainers(real_data, tmp_path_factory):
    """One trainer for pairs and one for single answers, built from recipes; the loss is swapped on them."""
    folder = tmp_path_factory.mktemp("hh")
    recipe = folder / "hh.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "model_name_or_path": "embedded",
                "dataset_name": str(real_data / "hh_harmless_test.jsonl.gz"),
                "load_in_4bit": True,
                "use_peft": True,
                "lora_target_modules": "all-linear",
                "learning_rate": 1e-4,
                "max_steps": 2,
                "per_device_train_batch_size": 8,
                "max_length": 512,
                "logging_steps": 1,
                "save_strategy": "no",
                "disable_tqdm": True,
            }
        )
    )
    built = {}
    for loss in ("dpo", "kto"):
        loaded = load(recipe, {"loss": loss})
        built[loaded.paired] = build_trainer(loaded, folder / loss)
    return built


def test_all_pairs_are_read(trainers):
    assert any("2,312 pairs" in statement for statement in trainers[True].statements)


@pytest.mark.parametrize("name", [name for name in losses.available() if not losses.describe(name).columns])
def test_every_loss_trains(name, trainers):
    loss = losses.get(name)
    trainer = trainers[loss.paired].trainer
    swap_loss(trainer, loss)
    trainer.step_metrics.is_first_step = True
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters() if p.requires_grad])
    trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 2 and all(math.isfinite(log["loss"]) and log["grad_norm"] > 0 for log in logs)


def test_rows_are_full_and_the_padded_fallback_wastes_little(trainers):
    """Over whole steps of 128 pairs: row fill at 4096 tokens, and padding against batches of 8 as they come."""
    trainer = trainers[True].trainer
    pairs = list(trainer.train_dataset)
    steps = [pairs[i : i + 128] for i in range(0, len(pairs) - 127, 128)]
    rows = [row for step in steps for row in pack_rows(step, trainer.tokens.tree, 4096)]
    assert sum(joined_tokens([trainer.tokens.tree(pair) for pair in row]) for row in rows) > 0.9 * 4096 * len(rows)

    def waste(batches) -> float:
        computed = sum(2 * len(batch) * max(map(trainer.tokens.length, batch)) for batch in batches)
        return 1 - sum(trainer.tokens.count(pair) for batch in batches for pair in batch) / computed

    fallback = [row for step in steps for row in cut_rows(step, trainer.tokens.length, sequences=2, row_tokens=4096)]
    assert waste(fallback) < 0.12
    assert waste([pairs[i : i + 8] for i in range(0, len(pairs), 8)]) > 0.4
