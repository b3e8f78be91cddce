"""Runs that go wrong say so once, on the console and in the metrics file; the demo's own runs are silent elsewhere."""

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build
from trl_ext.cli import main
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer
from trl_ext.trainers.monitoring.callback import Watch, facts_of, sample, still, warnings_in
from trl_ext.trainers.monitoring.metrics_log import MetricsFile


def run(tiny_model, tmp_path, examples, checkpoint=None, **changes):
    """Warnings of 24 steps of 10 pairs with AdamW: what is in the metrics file."""
    settings = {"optim": "adamw_torch", "max_steps": 24, "learning_rate": 1e-3, "per_device_train_batch_size": 10}
    extra = {"loss": "dpo", "reference_cache": False, "packing": False}
    config = PairedPreferenceConfig(**arguments(tmp_path, **{**settings, **extra, **changes}))
    trainer = build(PairedPreferenceTrainer, config, tiny_model, examples=examples)
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, config.lora_dtype)) * ("lora_A" in name)
    trainer.add_callback(MetricsFile(trainer, tmp_path / "metrics.jsonl"))
    trainer.add_callback(Watch(trainer, tmp_path / "metrics.jsonl"))
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer, dict(warnings_in(tmp_path / "metrics.jsonl"))


def test_a_healthy_run_says_nothing(tiny_model, tmp_path):
    trainer, warnings = run(tiny_model, tmp_path, pairs(40))
    assert warnings == {}
    facts = facts_of(trainer, 24)
    assert (facts.loss, facts.is_paired, facts.beta, facts.examples_per_step) == (("dpo",), True, 0.1, 10)
    assert facts.initial_loss == pytest.approx(0.693147, abs=1e-6)


def test_identical_pairs(tiny_model, tmp_path, capsys):
    examples = [{**pair, "rejected": pair["chosen"]} for pair in pairs(40)]
    _, warnings = run(tiny_model, tmp_path, examples)
    assert set(warnings) == {"no_gradient", "constant_loss"}
    printed = capsys.readouterr().out
    assert printed.count("warning, step 5: the gradient is zero, so nothing is learned") == 1


def test_answers_given_away_by_a_marker(tiny_model, tmp_path):
    examples = [{**pair, "chosen": " good", "rejected": " word word word"} for pair in pairs(40)]
    _, warnings = run(tiny_model, tmp_path, examples, learning_rate=1e-2)
    assert "perfect_accuracy" in warnings and "since step 1 have been ranked correctly" in warnings["perfect_accuracy"]


@pytest.mark.parametrize(("dtype", "warns"), [("bfloat16", True), ("float32", False)])
def test_an_adapter_whose_dtype_is_too_coarse_for_its_steps(dtype, warns, tiny_model, tmp_path):
    _, warnings = run(tiny_model, tmp_path, pairs(40), learning_rate=5e-7, lora_dtype=dtype)
    assert ("still_adapter" in warnings) == warns
    if warns:
        assert "smaller than the resolution of bfloat16" in warnings["still_adapter"]
        assert "`lora_dtype: float32`" in warnings["still_adapter"]


def test_half_of_the_elements_is_enough(tiny_model, tmp_path):
    trainer, _ = run(tiny_model, tmp_path, pairs(40), max_steps=1)
    facts, before = facts_of(trainer, 1), sample(trainer.model)
    assert "only 0.0% of lora_A has changed" in still(before, trainer.model, facts)
    for name, parameter in trainer.model.named_parameters():
        if name in before:
            parameter.data[: len(parameter) // 2] += 1
    assert still(before, trainer.model, facts) is None


def test_a_resumed_run_does_not_repeat_itself(tiny_model, tmp_path, capsys):
    examples = [{**pair, "rejected": pair["chosen"]} for pair in pairs(40)]
    saving = {"save_strategy": "steps", "save_steps": 12}
    run(tiny_model, tmp_path, examples, **saving)
    capsys.readouterr()
    _, warnings = run(tiny_model, tmp_path, examples, str(tmp_path / "checkpoint-12"), **saving)
    assert set(warnings) == {"no_gradient", "constant_loss"}
    printed = capsys.readouterr().out
    assert "the gradient is zero" not in printed  # said at step 5, before the checkpoint
    assert printed.count("the loss is still 0.6931") == 1  # at step 21, after it
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 25))
    assert [record["warning"] for record in records if "warning" in record] == ["no_gradient", "constant_loss"]


@pytest.mark.slow
def test_a_run_ends_with_its_warnings(tmp_path, capsys):
    recipe = str(Path(__file__).parents[3] / "recipes" / "demo.yaml")
    small = ["--max_steps", "30", "--per_device_train_batch_size", "2", "--max_train_samples", "40"]
    given = ["--learning_rate", "1e-12", "--logging_steps", "1", "--use_cpu", "true", "--disable_tqdm", "true"]
    assert main(["run", recipe, *small, *given, "--output_dir", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("the loss is still 0.6931, its value at policy = reference") == 2  # when it showed, and last
    assert printed.rindex("the loss is still") > printed.index("trained 30 steps")
