"""`compute_metrics` and `predict` are given what TRL's own trainers give them."""

import numpy as np
import pytest
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

APO = {"loss_type": "apo_zero_unpaired"}
SAME = [
    pytest.param((DPOTrainer, DPOConfig), (PairedPreferenceTrainer, PairedPreferenceConfig), {}, id="pairs"),
    pytest.param((KTOTrainer, KTOConfig), (UnpairedPreferenceTrainer, UnpairedPreferenceConfig), APO, id="labelled"),
]


def evaluated(classes, settings, tiny_model, folder, *, predicts=False):
    """What `compute_metrics` was given, and the metrics, of an evaluation of six pairs in batches of four."""
    cls, config_class = classes
    given = []

    def compute_metrics(prediction, compute_result=None):
        given.append((prediction, compute_result))
        return {"mine": float((prediction.label_ids >= 0).sum())}

    config = config_class(**arguments(folder, per_device_eval_batch_size=4, **settings))
    held_out = Dataset.from_list(pairs(6, seed=9))
    trainer = build(cls, config, tiny_model, eval_dataset=held_out, compute_metrics=compute_metrics)
    output = trainer.predict(trainer.eval_dataset) if predicts else trainer.evaluate()
    return given, output


@pytest.mark.parametrize(("theirs", "ours", "loss"), SAME)
@pytest.mark.parametrize("settings", [{}, {"include_for_metrics": ["inputs", "loss"], "eval_accumulation_steps": 1}])
def test_metrics_of_ones_own_see_the_same_logits(theirs, ours, loss, settings, tiny_model, tmp_path):
    [(expected, _)], theirs_metrics = evaluated(theirs, {**loss, **settings}, tiny_model, tmp_path / "trl")
    [(found, _)], metrics = evaluated(ours, {**loss, **settings}, tiny_model, tmp_path / "ours")
    assert np.array_equal(found.label_ids, expected.label_ids)
    np.testing.assert_allclose(found.predictions, expected.predictions, rtol=1e-4, atol=1e-4)
    if settings:
        assert np.array_equal(found.inputs, expected.inputs)
        assert found.losses.shape == expected.losses.shape
    assert metrics["eval_mine"] == theirs_metrics["eval_mine"]
    assert "eval_rewards/margins" in metrics


def test_metrics_batch_by_batch(tiny_model, tmp_path):
    settings = {"batch_eval_metrics": True}
    given, metrics = evaluated((PairedPreferenceTrainer, PairedPreferenceConfig), settings, tiny_model, tmp_path)
    assert [compute_result for _, compute_result in given] == [False, True] and "eval_mine" in metrics


@pytest.mark.parametrize(("theirs", "ours", "loss"), SAME)
def test_predictions_are_those_of_trl(theirs, ours, loss, tiny_model, tmp_path):
    _, expected = evaluated(theirs, loss, tiny_model, tmp_path / "trl", predicts=True)
    _, found = evaluated(ours, loss, tiny_model, tmp_path / "ours", predicts=True)
    np.testing.assert_allclose(found.predictions, expected.predictions, rtol=1e-4, atol=1e-4)
    assert np.array_equal(found.label_ids, expected.label_ids)
    assert expected.metrics.keys() <= found.metrics.keys()
