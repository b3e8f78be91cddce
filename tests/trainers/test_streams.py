"""A streamed set gives the metrics of the same rows loaded, whatever the other sets are."""

import pytest
from datasets import Dataset

from tests.conftest import pairs
from tests.trainers.helpers import arguments, lora
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.sft_and_reward import (
    RewardModelConfig,
    RewardModelTrainer,
    SupervisedConfig,
    SupervisedTrainer,
)

OF_TIME = ("runtime", "per_second", "preparation_time")


def labelled(count: int, seed: int) -> list[dict]:
    rows = pairs(count, seed)
    return [
        {"prompt": row["prompt"], "completion": row["rejected" if i % 3 else "chosen"], "label": i % 3 == 0}
        for i, row in enumerate(rows)
    ]


def demonstrations(count: int, seed: int) -> list[dict]:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs(count, seed)]


KINDS = {
    "paired": (PairedPreferenceTrainer, PairedPreferenceConfig, pairs, lora()),
    "unpaired": (UnpairedPreferenceTrainer, UnpairedPreferenceConfig, labelled, lora()),
    "reward": (RewardModelTrainer, RewardModelConfig, pairs, lora(task_type="SEQ_CLS")),
    "sft": (SupervisedTrainer, SupervisedConfig, demonstrations, lora()),
    "whole model": (PairedPreferenceTrainer, PairedPreferenceConfig, pairs, None),
}


def metrics(log: dict, prefix: str) -> dict[str, float]:
    names = (name for name in log if name.startswith(prefix) and not name.endswith(OF_TIME))
    return {name.removeprefix(prefix): log[name] for name in names}


def evaluated(model, tmp_path, kind, *, is_train_streamed, **settings):
    """Metrics of six rows in batches of four, loaded and streamed, after a step on rows loaded or streamed."""
    cls, config_class, rows, adapter = KINDS[kind]
    held_out = Dataset.from_list(rows(6, seed=9))
    config = config_class(
        **arguments(
            tmp_path, max_steps=1, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4, **settings
        )
    )
    trained = Dataset.from_list(rows(8, seed=0))
    trainer = cls(
        model=model,
        args=config,
        train_dataset=trained.to_iterable_dataset() if is_train_streamed else trained,
        eval_dataset={"loaded": held_out, "streamed": held_out.to_iterable_dataset()},
        peft_config=adapter,
    )
    trainer.train()
    found = {}
    for log in trainer.state.log_history:
        for name in ("loaded", "streamed"):
            found |= {name: metrics(log, f"eval_{name}_")} if f"eval_{name}_loss" in log else {}
    return trainer, held_out, found


@pytest.mark.parametrize("is_train_streamed", [False, True], ids=["train loaded", "train streamed"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_streamed_set_is_evaluated_like_a_loaded_one(kind, is_train_streamed, tiny_model, tmp_path):
    trainer, held_out, found = evaluated(tiny_model, tmp_path, kind, is_train_streamed=is_train_streamed)
    assert found["streamed"] == pytest.approx(found["loaded"], rel=1e-6)
    later = trainer.evaluate(held_out.to_iterable_dataset())  # which the constructor did not see
    assert later["eval_loss"] == pytest.approx(found["loaded"]["loss"], rel=1e-6)
    assert later["eval_samples_per_second"] > 0


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_reference_values_of_a_stream_are_computed_as_it_is_read(kind, tiny_model, tmp_path):
    """Those of the loaded rows are columns by then."""
    trainer, _, found = evaluated(tiny_model, tmp_path, kind, is_train_streamed=False, precompute_ref_log_probs=True)
    assert any("ref" in name for name in trainer.eval_dataset["loaded"].column_names)
    assert found["streamed"] == pytest.approx(found["loaded"], rel=1e-5)


@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset"])
def test_a_stream_without_a_reference_to_read_later_is_refused_before_loading(name, tmp_path):
    rows = Dataset.from_list(pairs(4))
    given = {"train_dataset": rows, "eval_dataset": rows, name: rows.to_iterable_dataset()}
    config = PairedPreferenceConfig(**arguments(tmp_path, precompute_ref_log_probs=True))
    with pytest.raises(ValueError, match=f"is not supported with IterableDataset. `{name}` is streamed"):
        PairedPreferenceTrainer(model="no-such-model", args=config, **given)
