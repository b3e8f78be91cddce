"""A complete list of TRL's default settings is a recipe: only values that differ from them are refused."""

import dataclasses
import enum
import json
from typing import Any

import pytest
import yaml
from trl import DPOConfig, KTOConfig, RewardConfig, RLOOConfig, SFTConfig

from trl_ext import losses
from trl_ext import recipe as recipes
from trl_ext.build.config import training_config
from trl_ext.support.errors import UserError
from trl_ext.trainers import OnlinePreferenceConfig, PairedPreferenceConfig, PPOConfig, UnpairedPreferenceConfig

BASE = {"model_name_or_path": "embedded", "dataset_name": "embedded", "use_peft": True}
CPU = {"output_dir": "unused", "use_cpu": True, "bf16": False, "report_to": "none"}
PAIRED = [name for name in losses.available() if losses.describe(name).paired]
UNPAIRED = [name for name in losses.available() if not losses.describe(name).paired]
REWARD = {"reward_funcs": ["sentiment"]}


def declared(cls: type) -> dict[str, Any]:
    """The defaults as TRL's configuration declares them."""
    fields = [field for field in dataclasses.fields(cls) if field.init]
    made = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in fields
    }
    return {key: value.value if isinstance(value, enum.Enum) else value for key, value in made.items()}


def settled(cls: type) -> dict[str, Any]:
    """The same once the configuration is made, as `to_dict` gives them."""
    return json.loads(json.dumps(cls(**CPU).to_dict(), default=str))


def load(tmp_path, settings: dict[str, Any]) -> Any:
    path = tmp_path / "dump.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return recipes.load(path)


DUMPS = [
    *((DPOConfig, {"loss": loss}) for loss in PAIRED if loss != "exo"),
    *((KTOConfig, {"loss": loss}) for loss in UNPAIRED),
    (DPOConfig, {"loss": {"sft": 1, "simpo": 0.5}}),
    (DPOConfig, {}),
    (KTOConfig, {}),
    (RewardConfig, {"trainer": "reward"}),
    (SFTConfig, {"trainer": "sft"}),
]


@pytest.mark.parametrize(("cls", "chosen"), DUMPS, ids=lambda value: getattr(value, "__name__", str(value)))
@pytest.mark.parametrize("dump", [declared, settled])
def test_a_dump_of_trls_defaults_is_a_recipe(dump, cls, chosen, tmp_path):
    settings = dump(cls) | BASE | chosen
    if "loss" in chosen:
        del settings["loss_type"]
    loaded = load(tmp_path, settings)
    read = (
        set().union(*(info.hyperparameters for info in getattr(loaded.info, "components", [loaded.info])))
        if loaded.loss
        else set()
    )
    assert set(loaded.loss_kwargs) <= read


@pytest.mark.parametrize("chosen", [{"trainer": "ppo"}, {"trainer": "online"}, {"trainer": "online", "loss": "simpo"}])
@pytest.mark.parametrize("dump", [declared, settled])
def test_a_dump_of_rloos_defaults_is_a_recipe_that_samples(dump, chosen, tmp_path):
    loaded = load(tmp_path, dump(RLOOConfig) | BASE | REWARD | chosen)
    config = training_config(loaded, tmp_path)
    assert (config.generation_batch_size, config.steps_per_generation) == (8, 1)


@pytest.mark.parametrize("cls", [PPOConfig, OnlinePreferenceConfig])
def test_a_configuration_that_samples_can_be_copied(cls):
    """It holds both the size of a rollout and its micro-batches, of which TRL takes only one."""
    config = dataclasses.replace(cls(**CPU, num_generations=2, steps_per_generation=3))
    assert (config.generation_batch_size, config.steps_per_generation) == (24, 3)
    with pytest.raises(ValueError, match="they disagree: for 8 completions, `steps_per_generation` is 1"):
        cls(**CPU, num_generations=2, generation_batch_size=8, steps_per_generation=2)


def test_exo_is_refused_by_trl_too():
    """TRL's trainer refuses its own default for this loss: ε has to be greater than 0."""
    assert not losses.describe("exo").kinds["label_smoothing"].accepts(DPOConfig(**CPU).label_smoothing)


OTHER = {
    "beta": (0.1, 0.2, "sft"),
    "label_smoothing": (0.0, 0.1, "hinge"),
    "discopop_tau": (0.05, 0.1, "dpo"),
    "f_divergence_type": ("reverse_kl", "forward_kl", "simpo"),
    "f_alpha_divergence_coef": (0.5, 0.4, "simpo"),
    "desirable_weight": (1.0, 1.5, "dpo"),
    "undesirable_weight": (1.0, 1.5, "dpo"),
}
"""A hyperparameter of TRL's: its default, another value, and a loss that does not read it."""


@pytest.mark.parametrize("key", OTHER)
@pytest.mark.parametrize("how", ["file", "flag", "variant", "loss_kwargs"])
def test_only_another_value_is_refused_in_a_recipe(how, key, tmp_path):
    default, other, loss = OTHER[key]
    path = tmp_path / "recipe.yaml"

    def loaded(value):
        settings = {
            "file": {key: value},
            "flag": {},
            "variant": {"variants": {loss: {key: value}}},
            "loss_kwargs": {"loss_kwargs": {key: value}},
        }[how]
        path.write_text(yaml.safe_dump(BASE | {"loss": loss} | settings), encoding="utf-8")
        return recipes.load(path, {key: value} if how == "flag" else None)

    assert key not in loaded(default).loss_kwargs and key not in loaded(default).values
    with pytest.raises(UserError, match=f"is not read by the loss {loss}"):
        loaded(other)


@pytest.mark.parametrize("key", [key for key in OTHER if "desirable" not in key])
def test_only_another_value_is_refused_in_python(key):
    default, other, loss = OTHER[key]
    config = PairedPreferenceConfig(**CPU, loss=loss, **{key: default})
    assert getattr(config, key) is None and key not in config.loss_kwargs
    assert config.loss_kwargs == PairedPreferenceConfig(**CPU, loss=loss).loss_kwargs
    with pytest.raises(ValueError, match=key):
        PairedPreferenceConfig(**CPU, loss=loss, **{key: other})


def test_every_hyperparameter_of_trl_is_tried():
    of_trl = {field.name for cls in (DPOConfig, KTOConfig) for field in dataclasses.fields(cls)}
    read = {key for name in losses.available() for key in losses.describe(name).hyperparameters}
    assert of_trl & read == set(OTHER)
    for key, (default, _, _) in OTHER.items():
        assert declared(KTOConfig if "desirable" in key else DPOConfig)[key] == default


@pytest.mark.parametrize(
    ("cls", "ours", "chosen"),
    [
        *((DPOConfig, PairedPreferenceConfig, {"loss": loss}) for loss in PAIRED if loss != "exo"),
        *((KTOConfig, UnpairedPreferenceConfig, {"loss": loss}) for loss in UNPAIRED),
        (RLOOConfig, PPOConfig, {}),
        (RLOOConfig, OnlinePreferenceConfig, {}),
    ],
)
def test_trls_defaults_are_accepted_in_python(cls, ours, chosen):
    settings = declared(cls) | CPU | chosen
    if "loss" in chosen:
        del settings["loss_type"]
    ours(**settings)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"ref_model_sync_steps": 512, "ref_model_mixup_alpha": 0.6}, {"ref_model_sync_steps": 64}),
        ({"loss": "ipo", "loss_weights": [1.0]}, {"loss_weights": [0.5]}),
        ({"trainer": "ppo", **REWARD, "beta": 0.05}, {"beta": 0.1}),
        (
            {
                "trainer": "online",
                **REWARD,
                "num_generations": 2,
                "generation_batch_size": 8,
                "steps_per_generation": 1,
            },
            {"generation_batch_size": 16},
        ),
        ({"trainer": "online", **REWARD, "epsilon": 0.2, "normalize_advantages": False}, {"epsilon": 0.3}),
    ],
)
def test_other_settings_without_a_reader(settings, refused, tmp_path):
    load(tmp_path, BASE | settings)
    with pytest.raises(UserError, match=next(iter(refused))):
        load(tmp_path, BASE | settings | refused)


def test_another_beta_of_ppo_is_refused_and_trls_has_no_effect():
    assert declared(RLOOConfig)["beta"] == 0.05
    assert PPOConfig(**CPU, beta=0.05).beta is None
    with pytest.raises(ValueError, match="Set that and remove `beta`"):
        PPOConfig(**CPU, beta=0.1)
