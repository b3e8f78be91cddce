"""A third, gold completion in packed and padded rows: tokens against TRL's TPO trainer, loss and gradient against a plain model."""

import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.tpo import TPOConfig, TPOTrainer

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build
from trl_ext import losses
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer

ROWS = [
    {**row, "gold": other["chosen"], "margin": 0.25 * i}
    for i, (row, other) in enumerate(zip(pairs(8), pairs(8, seed=5), strict=True))
]
SETTINGS = {"per_device_train_batch_size": 8, "max_steps": 1}


def trainer_for(model, folder, rows=ROWS, **changes):
    config = PairedPreferenceConfig(**arguments(folder, **SETTINGS | changes))
    return build(PairedPreferenceTrainer, config, model, examples=rows, peft_config=None)


def expected(model, tokenizer, loss, rows):
    """Losses of the rows, from the logits of one sequence after the other."""
    found = []
    for row in rows:
        tensors = {"margin": torch.tensor([row["margin"]])}
        prompt = tokenizer(row["prompt"])["input_ids"]
        for side in ("chosen", "rejected", "gold"):
            ids = torch.tensor([tokenizer(row["prompt"] + row[side] + tokenizer.eos_token)["input_ids"]])[:, :24]
            logps = model(ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[0, len(prompt) - 1 :, 0]
            tensors |= {f"{side}_logps": logps.sum()[None], f"{side}_lens": torch.tensor([len(logps)])}
        tensors |= {f"ref_{side}_logps": tensors[f"{side}_logps"].detach() - 1 for side in ("chosen", "rejected")}
        found.append(loss(**{name: tensors[name] for name in loss.inputs}).losses[0])
    return torch.stack(found)


@pytest.mark.parametrize(
    ("name", "packing", "row_tokens"),
    [("tpo", True, 1), ("tpo", False, 10_000), ("tpo_l", True, 60), ({"tpo_l": 1.0, "simpo": 0.5}, False, 1)],
)
def test_loss_and_gradient_of_a_step(name, packing, row_tokens, tiny_model, tmp_path):
    trainer = trainer_for(tiny_model, tmp_path, loss=name, packing=packing, row_tokens=row_tokens)
    trainer.train()
    assert trainer.rows.is_packed is packing
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    value = expected(model, AutoTokenizer.from_pretrained(tiny_model), trainer.loss, ROWS).mean()
    value.backward()
    logged = trainer.recorder.logs[0]
    assert logged["loss"] == pytest.approx(value.item(), rel=1e-5)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for parameter, gradient in trainer.recorder.gradients[0].items():
        torch.testing.assert_close(gradient, gradients[parameter], rtol=1e-3, atol=1e-5)
    assert logged["logps_per_token/gold"] < 0


def test_token_ids_are_those_of_trls_trainer(tiny_model, tmp_path):
    trainer = trainer_for(tiny_model, tmp_path, loss="tpo", max_length=None)
    given = Dataset.from_list(ROWS).rename_column("gold", "reference")
    config = TPOConfig(**arguments(tmp_path, max_length=None))
    stand_in = SimpleNamespace(_tokenize=TPOTrainer._tokenize)
    theirs = TPOTrainer._prepare_dataset(
        stand_in, given, AutoTokenizer.from_pretrained(tiny_model), config, "training"
    )
    for ours, name in (("prompt_ids", "prompt_ids"), ("chosen_ids", "chosen_ids"), ("gold_ids", "reference_ids")):
        assert trainer.train_dataset[ours][:] == theirs[name][:]


def test_a_loss_that_reads_no_margin_leaves_them_unread(tiny_model, tmp_path):
    rows = [{**row, "margin": "wide"} for row in ROWS]
    trainer = trainer_for(tiny_model, tmp_path, rows=rows, remove_unused_columns=False)
    trainer.train()
    assert trainer.recorder.logs[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "columns", "sentence"),
    [
        ("rpo", ["gold"], "`train_dataset` has no column `margin`, and the loss rpo reads it"),
        ({"tpo": 1.0, "rpo": 0.5}, ["margin"], "`train_dataset` has no column `gold`"),
        ("tpo", ["gold", "prompt_ids"], "`train_dataset` is tokenised and has no column `gold`, and the loss tpo"),
        ("tpo", ["gold_ids", "prompt_ids"], "`eval_dataset` has no column `gold`"),
    ],
)
def test_a_column_that_the_loss_reads_is_missed_before_anything_is_loaded(loss, columns, sentence, tmp_path):
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    full = Dataset.from_list([row | dict.fromkeys(columns, 0) for row in rows])
    config = PairedPreferenceConfig(**arguments(tmp_path, loss=loss))
    with pytest.raises(ValueError, match=sentence):
        PairedPreferenceTrainer(
            "no/model", args=config, train_dataset=full, eval_dataset={"other": Dataset.from_list(rows)}
        )


def test_margins_reach_the_loss_in_any_rows(tiny_model, tmp_path):
    values = []
    for packing, row_tokens in ((True, 1), (False, 10_000)):
        trainer = trainer_for(tiny_model, tmp_path, loss="rpo", packing=packing, row_tokens=row_tokens)
        trainer.train()
        values.append(trainer.recorder.logs[0]["loss"])
    # At policy = reference: the divergence of σ(m) from ½.
    p = torch.tensor([row["margin"] for row in ROWS]).sigmoid()
    known = (p * (2 * p).log() + (1 - p) * (2 * (1 - p)).log()).mean().item()
    assert values == pytest.approx([known, known], abs=1e-5)
    assert losses.get("rpo").columns == ("margin",)
