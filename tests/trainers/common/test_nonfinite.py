"""A step that is not finite changes nothing: neither weights nor optimizer, to the bit."""

import copy
import itertools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer, TrainerCallback

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, intercept, lora, weights
from trl_ext.support.errors import UserError
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.common.nonfinite import OVERFLOWS
from trl_ext.trainers.sft_and_reward import RewardModelConfig, RewardModelTrainer, SupervisedConfig, SupervisedTrainer


def lose(trainer, lost) -> None:
    """Have the loss of the second example be NaN in the rows with these numbers."""
    rows = itertools.count(1)

    def evaluate(original, tensors):
        output = original(tensors)
        if next(rows) not in lost:
            return output
        return output._replace(losses=output.losses * torch.tensor([1.0, math.nan, 1.0, 1.0]))

    intercept(trainer.row_objective, "evaluate", evaluate)


class Snapshots(TrainerCallback):
    """Weights and optimizer state after every step."""

    def __init__(self, trainer):
        self.trainer, self.kept = trainer, []
        trainer.add_callback(self)

    def on_step_end(self, args, state, control, **kwargs):
        self.kept.append((weights(self.trainer), copy.deepcopy(self.trainer.optimizer.state_dict()["state"])))


def same(a, b) -> bool:
    """Nested tensors are equal to the bit."""
    if isinstance(a, tuple):
        return all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def trained(tiny_model, tmp_path, lost, **changes):
    """Trains four steps of two rows of four pairs, with AdamW and weight decay."""
    settings = {
        "max_steps": 4,
        "optim": "adamw_torch",
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "packing": False,
        "row_tokens": 4 * 2 * 24,
        "max_length": 24,
        "train_sampling_strategy": "sequential",
        "reference_cache": False,
    }
    config = PairedPreferenceConfig(**arguments(tmp_path, **{**settings, **changes}))
    trainer = build(PairedPreferenceTrainer, config, tiny_model, examples=pairs(40))
    lose(trainer, lost)
    trainer.rows.cut = lambda examples: [examples[i : i + 4] for i in range(0, len(examples), 4)]
    snapshots = Snapshots(trainer)
    return trainer, snapshots


def test_it_stops_before_the_weights_change_and_names_the_example(tiny_model, tmp_path):
    trainer, snapshots = trained(tiny_model, tmp_path, lost={4}, save_strategy="steps", save_steps=1)
    with pytest.raises(UserError) as caught:
        trainer.train()
    said = str(caught.value)
    first = " ".join(pairs(40)[8 + 4 + 1]["prompt"].split()[:8])  # second step, second row, second example
    assert f"Step 2: the loss is nan, from 1 of the step's 8 examples (“{first} → " in said
    assert "skip_nonfinite_steps" in said
    assert len(snapshots.kept) == 1 and same(weights(trainer), snapshots.kept[0][0])
    assert same(trainer.optimizer.state_dict()["state"], snapshots.kept[0][1])
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    saved = load_file(tmp_path / "checkpoint-1" / "adapter_model.safetensors")
    assert all(value.isfinite().all() for value in saved.values())


def test_a_step_that_may_be_left_out_changes_nothing_and_is_counted(tiny_model, tmp_path):
    trainer, snapshots = trained(tiny_model, tmp_path, lost={3}, skip_nonfinite_steps=1)
    trainer.train()
    assert same(snapshots.kept[1], snapshots.kept[0]) and not same(snapshots.kept[2], snapshots.kept[1])
    logs = trainer.recorder.logs
    assert [math.isfinite(log["loss"]) for log in logs] == [True, False, True, True]
    assert [log.get("skipped_steps") for log in logs] == [None, 1, 1, 1]
    assert "rewards/margins" not in logs[1] and "rewards/margins" in logs[2]
    # Over a longer window the loss is the mean of the steps that had one.
    other, _ = trained(tiny_model, tmp_path, lost={3}, skip_nonfinite_steps=1, logging_steps=4)
    other.train()
    expected = sum(log["loss"] for log in logs if math.isfinite(log["loss"])) / 3
    assert other.recorder.logs[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_one_step_more_than_may_be_left_out_stops(tiny_model, tmp_path):
    trainer, snapshots = trained(tiny_model, tmp_path, lost={3, 7}, skip_nonfinite_steps=1)
    with pytest.raises(UserError, match="Step 4: the loss is nan"):
        trainer.train()
    assert len(snapshots.kept) == 3 and same(weights(trainer), snapshots.kept[2][0])


def test_an_infinite_gradient_of_a_finite_loss_is_a_fault_too(tiny_model, tmp_path):
    trainer, snapshots = trained(tiny_model, tmp_path, lost=())
    parameter = next(p for name, p in trainer.model.named_parameters() if "lora_B" in name)
    parameter.register_hook(lambda gradient: gradient + (math.inf if trainer.state.global_step == 1 else 0))
    with pytest.raises(UserError, match=r"Step 2: the gradient is (inf|nan)\. .*Lower `learning_rate` \(it is 0.01"):
        trainer.train()
    assert len(snapshots.kept) == 1 and same(weights(trainer), snapshots.kept[0][0])


def test_the_scaler_of_float16_is_left_to_find_its_scale(tiny_model, tmp_path):
    """Ten overflows are its search; overflows without end are a fault."""
    for overflows in (10, 40):
        trainer, snapshots = trained(tiny_model, tmp_path, lost=(), max_steps=30, skip_nonfinite_steps=0)
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        parameter = next(p for name, p in trainer.model.named_parameters() if "lora_B" in name)

        def overflow(gradient, trainer=trainer, overflows=overflows):
            return gradient * math.inf if trainer.state.global_step < overflows else gradient

        parameter.register_hook(overflow)
        if overflows == 10:
            trainer.train()
            assert same(snapshots.kept[9], snapshots.kept[0]) and not same(snapshots.kept[10], snapshots.kept[9])
            assert trainer.accelerator.scaler.get_scale() == 2.0**6
        else:
            with pytest.raises(UserError, match=f"overflowed {OVERFLOWS + 1} times in a row.*bf16: true"):
                trainer.train()


def test_weights_that_overflowed_in_a_step_are_not_saved(tiny_model, tmp_path):
    settings = {"optim": "sgd", "weight_decay": 0.0, "max_grad_norm": 0.0, "learning_rate": 1e36}
    trainer, _ = trained(tiny_model, tmp_path, (), save_strategy="steps", save_steps=1, **settings)
    parameter = next(p for name, p in trainer.model.named_parameters() if "lora_B" in name)
    parameter.register_hook(lambda gradient: gradient * 1e8)
    with pytest.raises(UserError, match="no longer finite after step 1 and were not saved"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))
    with pytest.raises(UserError, match="not saved"):
        trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final").exists()


def test_a_learning_rate_that_explodes_is_named(tiny_model, tmp_path):
    config = UnpairedPreferenceConfig(**arguments(tmp_path, learning_rate=1e30, optim="adamw_torch", max_steps=6))
    trainer = build(UnpairedPreferenceTrainer, config, tiny_model, examples=pairs(24))
    with pytest.raises(UserError) as caught:
        trainer.train()
    assert "Lower `learning_rate` (it is 1e+30 at this step)" in str(caught.value)


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_the_stages_before_stop_as_well(stage, tiny_model, tmp_path):
    cls, config_class = {
        "sft": (SupervisedTrainer, SupervisedConfig),
        "reward": (RewardModelTrainer, RewardModelConfig),
    }[stage]

    class LosesTheLastMicroBatch(cls):
        calls = 0

        def compute_loss(self, *args, **kwargs):
            self.calls += 1
            return super().compute_loss(*args, **kwargs) * (math.nan if self.calls == 4 else 1)

    rows = pairs(64)
    if stage == "sft":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    settings = {"optim": "adamw_torch", "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}
    trainer = LosesTheLastMicroBatch(
        model=tiny_model,
        args=config_class(**arguments(tmp_path, **settings)),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=lora(task_type="SEQ_CLS" if stage == "reward" else "CAUSAL_LM"),
    )
    snapshots = Snapshots(trainer)
    with pytest.raises(UserError) as caught:
        trainer.train()
    said = str(caught.value)
    words = re.fullmatch("Step 2: the loss is nan, from the micro-batch that begins with “(.+)”. The step .*", said)[1]
    assert any("".join(row.values()).startswith(words) for row in rows)
    assert len(snapshots.kept) == 1 and same(weights(trainer), snapshots.kept[0][0])


def test_a_negative_allowance_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`skip_nonfinite_steps` is -1"):
        PairedPreferenceConfig(**arguments(tmp_path), skip_nonfinite_steps=-1)


@pytest.mark.slow
def test_processes_leave_out_and_stop_at_the_same_steps(tiny_model, tmp_path):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.trainers.preference.two_processes_fault", tiny_model, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=1200)
    assert finished.returncode == 0, finished.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1))
    assert first["said"] == second["said"]
    assert "Step 4: the loss is nan, from 4 of the step's 8 examples (“" in first["said"]
    assert first["step"] == second["step"] == 3 and same(first["weights"], second["weights"])
    assert all(value.isfinite().all() for value in first["weights"].values())
    assert [math.isfinite(log["loss"]) for log in first["logs"]] == [True, False, True]
