"""A method that a subclass overrides is called where TRL calls it, or the subclass is refused."""

import inspect

import pytest
import trl
from datasets import Dataset

from tests.conftest import pairs
from tests.trainers.helpers import arguments, lora
from tests.trainers.ppo.helpers import PROMPTS, count_the
from trl_ext.trainers import (
    OnlinePreferenceConfig,
    OnlinePreferenceTrainer,
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    PPOConfig,
    PPOTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.common import overrides
from trl_ext.trainers.sft_and_reward import RewardModelConfig, RewardModelTrainer, SupervisedConfig, SupervisedTrainer

KINDS = {
    "paired": ((trl.DPOTrainer, trl.DPOConfig), (PairedPreferenceTrainer, PairedPreferenceConfig)),
    "unpaired": ((trl.KTOTrainer, trl.KTOConfig), (UnpairedPreferenceTrainer, UnpairedPreferenceConfig)),
    "reward": ((trl.RewardTrainer, trl.RewardConfig), (RewardModelTrainer, RewardModelConfig)),
    "sft": ((trl.SFTTrainer, trl.SFTConfig), (SupervisedTrainer, SupervisedConfig)),
    "ppo": ((trl.RLOOTrainer, trl.RLOOConfig), (PPOTrainer, PPOConfig)),
    "online": ((trl.RLOOTrainer, trl.RLOOConfig), (OnlinePreferenceTrainer, OnlinePreferenceConfig)),
}
BYPASSED = {
    "paired": overrides.OF_ROWS,
    "unpaired": overrides.OF_ROWS,
    "reward": {},
    "sft": {},
    "ppo": overrides.OF_PPO,
    "online": overrides.OF_LOSSES,
}


def overriding(cls, names, calls):
    """A subclass that overrides these methods, and adds each call with the phase it was made in."""

    def method(name):
        def call(self, *args, **kwargs):
            is_training = getattr(self, "is_in_train", False) and self.model.training
            calls.add((name, "training" if is_training else "otherwise"))
            return getattr(super(subclass, self), name)(*args, **kwargs)

        return call

    subclass = type("MyTrainer", (cls,), {name: method(name) for name in names})
    return subclass


def methods(cls):
    return {
        name
        for owner in cls.__mro__
        for name, value in vars(owner).items()
        if inspect.isfunction(value) and not name.startswith("__")
    }


def build(cls, config_class, kind, model, folder, **changes):
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    settings = arguments(folder, **{**steps, **changes})
    given = {"peft_config": lora(task_type="SEQ_CLS") if kind == "reward" else lora()}
    rows = pairs(8)
    if kind in ("ppo", "online"):
        del settings["max_length"]
        settings |= {"num_generations": 2, "max_completion_length": 4}
        given["reward_funcs"] = count_the
        rows = [{"prompt": prompt} for prompt in PROMPTS[:8]]
    if kind == "sft":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    data = Dataset.from_list(rows)
    return cls(model=model, args=config_class(**settings), train_dataset=data, eval_dataset=data, **given)


def run(trainer, folder):
    trainer.train()
    trainer.evaluate()
    trainer.predict(trainer.eval_dataset)
    trainer.save_model(folder / "saved")


TRL_CALLS: dict[type, set] = {}
"""Of the trainers that have run: two kinds here have one parent."""


def called_by_trl(cls, config_class, kind, model, folder):
    if cls not in TRL_CALLS:
        TRL_CALLS[cls] = set()
        run(build(overriding(cls, methods(cls), TRL_CALLS[cls]), config_class, kind, model, folder / "trl"), folder)
    return TRL_CALLS[cls]


@pytest.mark.parametrize("kind", KINDS)
def test_what_trl_calls_is_called_or_refused(kind, tiny_model, tmp_path):
    (theirs, theirs_config), (ours, config) = KINDS[kind]
    expected, found, bypassed = called_by_trl(theirs, theirs_config, kind, tiny_model, tmp_path), set(), BYPASSED[kind]
    called = {name for name, _ in expected}
    assert called >= {
        "compute_loss",
        "training_step",
        "get_train_dataloader",
        "create_optimizer",
        "log",
        "_prepare_inputs",
    }
    cls = overriding(ours, called - {*bypassed}, found)
    run(build(cls, config, kind, tiny_model, tmp_path / "ours"), tmp_path)
    assert {call for call in expected if call[0] not in bypassed} <= found
    assert {name for name in bypassed if hasattr(theirs, name)} <= called  # none is refused without need
    for name in bypassed:
        with pytest.raises(ValueError, match=f"`MyTrainer` overrides `{name}`, and training would not use it"):
            build(overriding(ours, [name], set()), config, kind, "no-such-model", tmp_path)


def test_methods_of_older_versions_are_refused_together(tmp_path):
    names = ["get_batch_logps", "dpo_loss", "compute_loss"]
    cls = overriding(PairedPreferenceTrainer, names, set())
    with pytest.raises(ValueError) as caught:
        build(cls, PairedPreferenceConfig, "paired", "no-such-model", tmp_path)
    assert str(caught.value) == (
        "`MyTrainer` overrides `compute_loss` and `dpo_loss`, and training would not use them: this trainer runs its own "
        "step. Override `example_losses(self, losses, tensors)` instead, which returns one loss per example. `MyTrainer` "
        "overrides `get_batch_logps`, and training would not use it: this trainer runs its own step. "
        "`example_losses(self, losses, tensors)` is given the log-probabilities of policy and reference."
    )


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("paired", "compute_loss", lambda *args: None),
        ("paired", "compute_loss_func", lambda *args: None),
        ("paired", "data_collator", lambda examples: {}),
        ("ppo", "compute_loss", lambda *args: None),
    ],
)
def test_what_is_assigned_to_a_trainer_and_not_read_is_refused(kind, name, value, tiny_model, tmp_path):
    trainer = build(*KINDS[kind][1], kind, tiny_model, tmp_path)
    setattr(trainer, name, value)
    with pytest.raises(ValueError, match=f"`{name}`"):
        trainer.train()


def test_losses_of_ppo_can_be_replaced(tiny_model, tmp_path):
    trainer = build(*KINDS["ppo"][1], "ppo", tiny_model, tmp_path, eval_strategy="no", save_strategy="no")
    seen, policy_loss = [], trainer.update.policy_loss

    def doubled(batch, sums):
        seen.append(len(batch["completion_ids"]))
        return 2 * policy_loss(batch, sums)

    trainer.update.policy_loss = doubled
    trainer.train()
    assert sum(seen) == 8
