"""Rows of which no token is learned: a packed micro-batch of them alone teaches nothing, and leaves the mean of the others."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from tests.trainers.helpers import Recorder, arguments, lora, randomise_lora_b, weights
from trl_ext.trainers import SupervisedConfig, SupervisedTrainer

LENGTH = 24
LEARNED = (range(0), range(16, LENGTH), range(0), range(3, 6))


def examples():
    rows = torch.randint(5, 40, (len(LEARNED), LENGTH), generator=torch.Generator().manual_seed(0)).tolist()
    return [
        {"input_ids": ids, "labels": [token if i in learned else -100 for i, token in enumerate(ids)]}
        for ids, learned in zip(rows, LEARNED, strict=True)
    ]


def built(model, folder, rows, **changes):
    settings = {
        "packing": True,
        "max_length": LENGTH,
        "per_device_train_batch_size": 1,
        "max_steps": 1,
        "max_grad_norm": 0,
    }
    args = SupervisedConfig(**arguments(folder, **settings | {"gradient_accumulation_steps": len(rows)} | changes))
    trainer = SupervisedTrainer(
        model, args, None, Dataset.from_list(rows), None, AutoTokenizer.from_pretrained(model), peft_config=lora()
    )
    randomise_lora_b(trainer.model)
    assert len(trainer.train_dataset) == len(rows)  # a pack holds one row
    return trainer


def test_the_loss_of_a_step_is_the_mean_over_its_learned_tokens(tiny_model, tmp_path):
    trainer = built(tiny_model, tmp_path, examples())
    logps = []
    for row in examples():
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
        with torch.no_grad():
            found = trainer.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        logps += found[labels != -100].gather(1, labels[labels != -100][:, None]).flatten().tolist()
    recorder = Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    assert len(logps) == 8 + 3
    assert next(log["loss"] for log in trainer.state.log_history) == pytest.approx(-sum(logps) / len(logps), rel=1e-5)
    assert all(value.isfinite().all() for step in recorder.gradients for value in step.values())


def test_a_step_of_masked_rows_alone_changes_nothing(tiny_model, tmp_path):
    masked = [row for row in examples() if set(row["labels"]) == {-100}]
    trainer = built(tiny_model, tmp_path, masked, optim="sgd", weight_decay=0.0)
    before = {name: value.clone() for name, value in weights(trainer).items()}
    trainer.train()
    assert next(log["loss"] for log in trainer.state.log_history) == 0 and trainer.state.global_step == 1
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())
