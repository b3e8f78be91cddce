"""β-DPO in training: one β for a whole step however it is cut, and its running mean in checkpoints."""

import json

import pytest
import torch

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, lora, weights
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer

SETTINGS = {"per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 0.05, "loss": "beta_dpo", "beta": 1.0}


def trainer_for(model, folder, **changes):
    config = PairedPreferenceConfig(**arguments(folder, **{**SETTINGS, **changes}))
    return build(PairedPreferenceTrainer, config, model, examples=pairs(12), peft_config=lora())


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """Four steps of one row each, with a checkpoint after two of them."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = trainer_for(tiny_model, folder, row_tokens=10_000, save_strategy="steps", save_steps=2)
    trainer.train()
    return folder, trainer


def logged(trainer):
    return [
        (log["loss"], log["loss_state/mean_margin"], log["rewards/margins"])
        for log in trainer.state.log_history
        if "loss" in log
    ]


def test_the_mean_is_the_moving_average_of_the_margins(whole):
    _, trainer = whole
    mean = 0.0
    for _, found, margin in logged(trainer):  # rewards are β times log-ratios, with β = 1
        mean = 0.9 * mean + 0.1 * margin
        assert found == pytest.approx(mean, abs=1e-6)
    assert mean > 0.01  # the margins have moved


def test_a_step_in_several_rows_is_the_same_step(whole, tiny_model, tmp_path):
    _, trainer = whole
    cut = trainer_for(tiny_model, tmp_path, row_tokens=1)
    cut.train()
    assert cut.step.losses and len(cut.step.losses) == 4 and len(trainer.step.losses) == 1
    assert logged(cut) == [pytest.approx(values, abs=1e-5) for values in logged(trainer)]
    for name, value in weights(trainer).items():
        torch.testing.assert_close(weights(cut)[name], value, atol=2e-5, rtol=0)


def test_resume_continues_with_the_mean(whole, tiny_model, tmp_path):
    folder, trainer = whole
    checkpoint = folder / "checkpoint-2"
    kept = json.loads((checkpoint / "trl_ext_counters.json").read_text(encoding="utf-8"))["loss_state"]
    assert kept == {"mean_margin": pytest.approx(logged(trainer)[1][1])}
    resumed = trainer_for(tiny_model, tmp_path, row_tokens=10_000)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.row_objective.state.values == trainer.row_objective.state.values
