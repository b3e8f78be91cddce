"""`kto` and `apo_zero_unpaired` against `trl.KTOTrainer` itself, given TRL's pairing."""

import pytest
from transformers import AutoModelForCausalLM
from trl import KTOConfig, KTOTrainer

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, relative_difference, weights
from trl_ext.trainers import UnpairedPreferenceConfig, UnpairedPreferenceTrainer
from trl_ext.trainers.preference import baseline, fixed_pairs

SAME_METRICS = (
    "loss", "entropy", "num_tokens", "logits/chosen", "logits/rejected", "rewards/chosen", "rewards/rejected",
    "rewards/margins", "logps/chosen", "logps/rejected",
)  # fmt: skip


def examples():
    """24 single completions, both classes in every window of 8."""
    return [{"prompt": p["prompt"], "completion": p["chosen"], "label": i % 3 != 0} for i, p in enumerate(pairs(24))]


def rolled_by_one(examples):
    """TRL's pairing: within a micro-batch, each prompt gets the completion of the example before it."""
    return [{**example, "completion_ids": examples[i - 1]["completion_ids"]} for i, example in enumerate(examples)]


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("settings", [{}, {"beta": 0.5, "desirable_weight": 1.5, "undesirable_weight": 0.5}])
def test_same_loss_metrics_gradients_and_weights(loss, settings, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(baseline, "mismatched", rolled_by_one)
    trl = build(
        KTOTrainer,
        KTOConfig(**arguments(tmp_path / "trl"), loss_type=loss, train_sampling_strategy="sequential", **settings),
        tiny_model,
        examples=examples(),
    )
    trl.train()
    mine = build(
        UnpairedPreferenceTrainer,
        UnpairedPreferenceConfig(
            **arguments(tmp_path / "ours", per_device_train_batch_size=1, gradient_accumulation_steps=8),
            loss=loss,
            row_tokens=50,
            train_sampling_strategy="sequential",
            **settings,
        ),
        tiny_model,
        examples=examples(),
    )
    mine.train()
    baselines = []
    for step in range(3):
        assert relative_difference(mine.recorder.gradients[step], trl.recorder.gradients[step]) < 1e-5
        for name in SAME_METRICS + (("kl",) if loss == "kto" else ()):
            expected = pytest.approx(trl.recorder.logs[step][name], rel=1e-5, abs=1e-5)
            assert mine.recorder.logs[step][name] == expected, name
        baselines.append(trl.recorder.logs[step].get("kl", 0))
    if loss == "kto":
        assert max(baselines) > 0  # otherwise the baseline was never tested
    assert relative_difference(weights(mine), weights(trl)) < 1e-5


@pytest.mark.parametrize("packing", [True, False])
def test_precomputed_values_of_full_fine_tuning_are_those_of_trl(packing, tiny_model, tmp_path, monkeypatch):
    """The reference is the untrained model, which scores the mismatched pairs too and is not kept."""

    def rolled_within_micro_batches(rows):
        return [8 * (i // 8) + (i - 1) % 8 for i, _ in enumerate(rows)]

    monkeypatch.setattr(fixed_pairs, "partners", rolled_within_micro_batches)
    settings = {
        "train_sampling_strategy": "sequential",
        "precompute_ref_log_probs": True,
        "max_steps": 6,
        "learning_rate": 0.1,
    }
    trl = build(
        KTOTrainer, KTOConfig(**arguments(tmp_path, **settings)), tiny_model, examples=examples(), peft_config=None
    )
    trl.train()
    config = UnpairedPreferenceConfig(**arguments(tmp_path, **settings), packing=packing)
    mine = build(UnpairedPreferenceTrainer, config, tiny_model, examples=examples(), peft_config=None)
    mine.train()
    assert mine.ref_model is None and mine.references.cache is None
    for step in range(6):
        assert relative_difference(mine.recorder.gradients[step], trl.recorder.gradients[step]) < 1e-4
        for name in (*SAME_METRICS, "kl"):
            expected = pytest.approx(trl.recorder.logs[step][name], rel=1e-4, abs=1e-4)
            assert mine.recorder.logs[step][name] == expected, name
    assert trl.recorder.logs[-1]["kl"] > 0


def test_precomputed_values_beside_a_second_model_are_those_computed_during_training(tiny_model, tmp_path):
    found = []
    for precompute in (False, True):
        config = UnpairedPreferenceConfig(
            **arguments(tmp_path, precompute_ref_log_probs=precompute, learning_rate=0.1)
        )
        second = AutoModelForCausalLM.from_pretrained(tiny_model)
        trainer = build(
            UnpairedPreferenceTrainer, config, tiny_model, examples=examples(), peft_config=None, ref_model=second
        )
        trainer.train()
        found.append([(log["loss"], log["kl"], log["rewards/margins"]) for log in trainer.recorder.logs])
    assert found[1] == [pytest.approx(log, rel=1e-4, abs=1e-5) for log in found[0]]
