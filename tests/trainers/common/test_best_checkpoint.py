"""An evaluation that lacks the metric of the best checkpoint is reported, and no checkpoint is lost."""

import math

import pytest
from datasets import Dataset
from transformers import Trainer

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build
from trl_ext.checkpoints import found
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 2, "optim": "adamw_torch"}


def trained(model, folder, **changes):
    config = PairedPreferenceConfig(**arguments(folder, **{**EVERY_STEP, **changes}))
    trainer = build(PairedPreferenceTrainer, config, model, eval_dataset=Dataset.from_list(pairs(8, seed=1)))
    trainer.train()
    return trainer


def test_transformers_raises_without_the_metric():
    """What the override prevents; if transformers stops raising, it can go."""

    class Bare:
        class args:
            metric_for_best_model = "bleu"

    with pytest.raises(KeyError, match="not found in the evaluation metrics"):
        Trainer._determine_best_metric(Bare(), {"eval_loss": 1.0}, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"save_strategy": "steps"},
        {"save_strategy": "best"},
        {"save_strategy": "steps", "load_best_model_at_end": True},
        {"save_strategy": "steps", "lr_scheduler_type": "reduce_lr_on_plateau", "learning_rate": 1e-3},
    ],
    ids=str,
)
def test_a_missing_metric_loses_no_checkpoint(changes, tiny_model, tmp_path, capsys):
    trainer = trained(tiny_model, tmp_path, metric_for_best_model="bleu", greater_is_better=False, **changes)
    said = capsys.readouterr().out
    assert trainer.state.global_step == 2
    assert [found.damage(tmp_path / f"checkpoint-{step}") for step in (1, 2)] == [None, None]
    assert said.count("the evaluation has no value of bleu (`metric_for_best_model`)") == 1
    assert "Step 1:" in said and "eval_rewards/margins" in said and "eval_apart" not in said


def test_a_metric_that_is_not_a_number_is_not_the_best(tiny_model, tmp_path, capsys, monkeypatch):
    trainer = trained(tiny_model, tmp_path, metric_for_best_model="loss", save_strategy="best")
    assert trainer.state.best_metric == min(
        row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row
    )
    assert capsys.readouterr().out.count("`metric_for_best_model`") == 0
    for value in (None, math.nan):
        trainer._lacks_metric = False
        assert trainer._determine_best_metric({"eval_loss": value}, None) is True
        assert "no value of loss" in capsys.readouterr().out
    assert math.isfinite(trainer.state.best_metric)
