"""A GRPO file is refused by name, and each of its settings says what PPO has in its place."""

import dataclasses

import trl

from tests.recipe.helpers import PPO, problems
from trl_ext.foreign.grpo import GRPO
from trl_ext.recipe import schema


def test_every_setting_that_only_grpo_has_gives_its_reason(tmp_path):
    only = {field.name for field in dataclasses.fields(trl.GRPOConfig)} - {*schema.training("ppo")}
    assert only - {"loss_type"} == set(GRPO.means)  # losses on preferences have a `loss_type` too
    for key in GRPO.means:
        (meaning,) = GRPO.read(key, 1, {"trainer": "ppo"})
        (sentence,) = problems(tmp_path, f"{key}: 1\n", base=PPO)
        assert sentence == f"`{key}` (line 6) is not a setting here: {meaning.sentence}"
        (sentence,) = problems(tmp_path, f"{key}: 1\n")
        assert "it is a setting of GRPO, which trl-ext does not have. Remove it." in sentence


def test_a_trainer_of_trl_is_refused_once_and_its_settings_are_those_of_ppo(tmp_path):
    for name, trainer in (("grpo", "GRPOTrainer"), ("rloo", "RLOOTrainer")):
        text = PPO.replace("trainer: ppo", f"trainer: {name}") + "num_generations: 4\n"
        (sentence,) = problems(tmp_path, "", base=text)
        assert f"`trainer` (line 1) is {name}, which trl-ext does not have." in sentence and trainer in sentence
