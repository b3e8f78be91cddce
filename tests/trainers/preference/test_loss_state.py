"""Running values of a loss: updated once per step however it is cut, equal after a resume, and computed from the data once."""

import json
import shutil

import pytest
import torch

from tests.conftest import pairs
from tests.losses.test_registry import extended  # noqa: F401
from tests.losses.test_running import WITH_STATE
from tests.trainers.helpers import arguments, build, intercept, lora, randomise_lora_b, weights
from trl_ext.support.errors import UserError
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

SETTINGS = {
    "per_device_train_batch_size": 4,
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 2,
    "learning_rate": 0.05,
}


def trainer_for(model, folder, loss="bco_unpaired", **changes):
    is_paired = loss in ("bco", "margin", "dpo") or isinstance(loss, dict)
    config_class = PairedPreferenceConfig if is_paired else UnpairedPreferenceConfig
    cls = PairedPreferenceTrainer if is_paired else UnpairedPreferenceTrainer
    config = config_class(**arguments(folder, **{**SETTINGS, **changes}), loss=loss)
    return build(cls, config, model, examples=pairs(12), peft_config=lora())


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """An uninterrupted run of one row per step with a checkpoint after two of its four steps; the tensors of each step."""
    folder, seen = tmp_path_factory.mktemp("whole"), []
    trainer = trainer_for(tiny_model, folder, row_tokens=10_000)

    def score(original, model, batch):
        tensors, fields = original(model, batch)
        seen.append({name: tensor.detach().clone() for name, tensor in tensors.items()})
        return tensors, fields

    intercept(trainer.row_objective, "score", score)
    trainer.train()
    return folder, trainer, seen


def test_the_values_are_those_of_the_steps_before(whole):
    _, trainer, seen = whole
    assert len(seen) == 4
    rewards = [0.1 * (row["logps"] - row["ref_logps"]).double() for row in seen]
    good = torch.cat([r[row["desirable"]] for r, row in zip(rewards, seen, strict=True)])
    bad = torch.cat([r[~row["desirable"]] for r, row in zip(rewards, seen, strict=True)])
    state = trainer.row_objective.state.values
    assert state["desirable_mean"] == pytest.approx(good.mean().item()) and state["desirable_count"] == len(good)
    assert state["undesirable_mean"] == pytest.approx(bad.mean().item()) and state["undesirable_count"] == len(bad)
    # The second step's loss, with the means of the first.
    first, second = seen[:2]
    means = [rewards[0][mask].mean() for mask in (first["desirable"], ~first["desirable"])]
    logits = rewards[1] - sum(means) / 2
    expected = -torch.where(second["desirable"], logits, -logits).sigmoid().log().mean()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert logs[1]["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert logs[-1]["loss_state/desirable_mean"] == pytest.approx(state["desirable_mean"])


def test_a_step_in_several_rows_that_ran_out_of_memory_counts_once(whole, tiny_model, tmp_path):
    trainer = trainer_for(tiny_model, tmp_path, row_tokens=1, save_strategy="no")
    calls = iter(range(1000))

    def score(original, model, batch):
        if next(calls) == 6:  # in the second step
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return original(model, batch)

    intercept(trainer.row_objective, "score", score)
    trainer.train()
    assert trainer.retry.has_run_again
    assert trainer.row_objective.state.values == pytest.approx(whole[1].row_objective.state.values, rel=1e-4)


def test_a_resumed_run_continues_with_the_same_bits(whole, tiny_model, tmp_path):
    folder, trainer, _ = whole
    resumed = trainer_for(tiny_model, tmp_path, row_tokens=10_000)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert resumed.row_objective.state.values == trainer.row_objective.state.values
    expected, found = weights(trainer), weights(resumed)
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []


def test_a_checkpoint_of_another_loss_is_refused(whole, tiny_model, tmp_path):
    shutil.copytree(whole[0] / "checkpoint-2", tmp_path / "checkpoint-2")
    counters = tmp_path / "checkpoint-2" / "trl_ext_counters.json"
    counters.write_text(json.dumps({**json.loads(counters.read_text()), "loss_state": {}}))
    resumed = trainer_for(tiny_model, tmp_path / "other")
    with pytest.raises(
        UserError, match=r"other running values than the loss bco_unpaired keeps \(desirable_count, .*\): none\."
    ):
        resumed._load_from_checkpoint(str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("row_tokens", [1, 10_000])
def test_a_coupled_mix_reads_the_values_of_the_step_itself(row_tokens, tiny_model, tmp_path):
    trainer = trainer_for(tiny_model, tmp_path, {"aot": 1.0, "bco": 1.0}, row_tokens=row_tokens, save_strategy="no")
    randomise_lora_b(trainer.model)
    examples = [trainer.train_dataset[i] for i in range(4)]
    tensors = trainer.evaluation.tensors(examples)
    sums = trainer.step.run(examples)
    state = trainer.row_objective.state.values
    rewards = [0.1 * (tensors[f"{s}_logps"] - tensors[f"ref_{s}_logps"]) for s in ("chosen", "rejected")]
    delta = sum(rewards).mean() / 2
    assert state["bco"]["delta"] == pytest.approx(delta.item(), abs=1e-5)
    margins = rewards[0] - rewards[1]
    policy = (tensors["chosen_logps"] - tensors["rejected_logps"]).sort().values
    reference = (tensors["ref_chosen_logps"] - tensors["ref_rejected_logps"]).sort().values
    aot = -(0.1 * (policy - reference)).sigmoid().log()
    bco = -(rewards[0] - delta).sigmoid().log() - (delta - rewards[1]).sigmoid().log()
    assert margins.abs().min() > 0
    assert sums.means()["loss"] == pytest.approx((aot + bco).mean().item(), abs=1e-4)


def test_a_value_of_the_training_set_is_computed_once(extended, tiny_model, tmp_path, capsys):  # noqa: F811
    (extended / "margin.py").write_text(WITH_STATE)
    trainer = trainer_for(tiny_model, tmp_path, "margin", max_steps=3, learning_rate=0.01, save_steps=2)
    randomise_lora_b(trainer.model)
    examples = [dict(trainer.train_dataset[i]) for i in range(12)]
    tensors = trainer.evaluation.tensors(examples)
    gap = (tensors["chosen_logps"] - tensors["rejected_logps"]).mean().item()
    trainer.train()
    assert trainer.row_objective.state.values == {"gap": pytest.approx(gap, abs=1e-4)}
    assert capsys.readouterr().out.count("scoring 12 training examples once") == 1
    resumed = trainer_for(tiny_model, tmp_path / "again", "margin", max_steps=3, learning_rate=0.01)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.row_objective.state.values == trainer.row_objective.state.values
    assert "scoring the" not in capsys.readouterr().out
