"""What a TRL user reads off a trainer, its configuration, its logs and its card is true."""

import ast
import dataclasses
from pathlib import Path

import pytest
import transformers.trainer
import trl
import yaml
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RLOOConfig, RLOOTrainer

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build
from trl_ext import losses
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
from trl_ext.trainers.common import device_cache
from trl_ext.trainers.common.step_zero import APART
from trl_ext.trainers.preference import trl_spelling

OURS = {
    "dpo": (PairedPreferenceTrainer, PairedPreferenceConfig),
    "kto": (UnpairedPreferenceTrainer, UnpairedPreferenceConfig),
}
THEIRS = {"dpo": (DPOTrainer, DPOConfig), "kto": (KTOTrainer, KTOConfig)}


def labelled(count: int) -> list[dict]:
    return [
        {"prompt": row["prompt"], "completion": row[("rejected", "chosen")[i % 2]], "label": bool(i % 2)}
        for i, row in enumerate(pairs(count))
    ]


EXAMPLES = {"dpo": pairs(24), "kto": labelled(24)}


def made(classes, kind, model, folder, **settings):
    trainer, config = classes[kind]
    return build(trainer, config(**arguments(folder, **settings)), model, examples=EXAMPLES[kind])


# The loss -----------------------------------------------------------------------------------------------------------


def loss_types_of_trl(module) -> set[str]:
    """The loss types that TRL's trainer compares with in its loss."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    compared = [
        node.comparators[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and ast.unparse(node.left) in ("loss_type", "self.loss_type")
        and isinstance(node.comparators[0], ast.Constant)
    ]
    return set(compared)


def test_every_loss_of_trl_has_its_own_name():
    of_dpo, of_kto = loss_types_of_trl(trl.trainer.dpo_trainer), loss_types_of_trl(trl.trainer.kto_trainer)
    assert of_dpo == set(trl_spelling.OF_TRL["dpo"]) and of_kto == set(trl_spelling.OF_TRL["kto"])
    for name in of_dpo | of_kto:
        assert trl_spelling.to_trl(losses.canonical(name)) == ([name], None)


@pytest.mark.parametrize(
    ("settings", "types", "weights"),
    [
        ({}, ["sigmoid"], None),
        ({"loss": "exo"}, ["exo_pair"], None),
        ({"loss_type": "ipo"}, ["ipo"], None),
        ({"loss": "simpo"}, ["simpo"], None),
        ({"loss_type": ["sigmoid", "bco_pair"], "loss_weights": [1.0, 0.5]}, ["sigmoid", "bco_pair"], [1.0, 0.5]),
        ({"loss": {"sigmoid": 1, "hinge": 2}}, ["sigmoid", "hinge"], [1.0, 2.0]),
        ({"loss": {"ipo": 1}}, ["ipo"], [1.0]),
        ({"loss": {"ipo": 0.5}}, ["ipo"], [0.5]),
    ],
)
def test_loss_type_spells_the_loss_that_is_trained(settings, types, weights, tmp_path):
    config = PairedPreferenceConfig(**arguments(tmp_path), **settings)
    assert (config.loss_type, config.loss_weights) == (types, weights)
    for again in (dataclasses.replace(config), PairedPreferenceConfig(**vars_of(config))):
        assert (again.loss_type, again.loss_weights) == (types, weights)
        assert trl_spelling.is_same(again.loss, config.loss) and again.loss_kwargs == config.loss_kwargs


def vars_of(config) -> dict:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.init}


def test_kto_spells_its_loss(tmp_path):
    assert UnpairedPreferenceConfig(**arguments(tmp_path)).loss_type == "kto"
    assert UnpairedPreferenceConfig(**arguments(tmp_path), loss="apo_zero_unpaired").loss_type == "apo_zero_unpaired"
    mix = UnpairedPreferenceConfig(**arguments(tmp_path), loss={"kto": 1, "apo_zero_unpaired": 0.5})
    assert mix.loss_type is None and dataclasses.replace(mix).loss == mix.loss


def test_a_mix_shows_the_values_that_its_parts_share(tmp_path):
    given = arguments(tmp_path) | {"loss": {"dpo": 1, "hinge": 1}}
    assert PairedPreferenceConfig(**given, beta=0.3).beta == 0.3
    assert PairedPreferenceConfig(**given, loss_kwargs={"dpo": {"beta": 0.5}}).beta is None


# Attributes ---------------------------------------------------------------------------------------------------------

EXPLAINED = {
    "dpo": set(),
    # TRL pairs completions with other prompts in its dataset. Here the step does, so the dataset holds no such column.
    "kto": {"calculate_KL"},
}


def plain(trainer) -> dict:
    """The public attributes of a trainer that are plain values."""
    kinds = (bool, int, float, str, list, type(None))
    return {k: v for k, v in vars(trainer).items() if isinstance(v, kinds) and not k.startswith("_")}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("dpo", {}),
        ("dpo", {"loss_type": ["sigmoid", "ipo"], "loss_weights": [1.0, 0.5], "beta": 0.2}),
        ("dpo", {"loss_type": ["robust"], "label_smoothing": 0.1, "ld_alpha": 0.5, "use_weighting": True}),
        ("kto", {"train_sampling_strategy": "sequential", "desirable_weight": 1.5}),
    ],
)
def test_a_trainer_has_trls_attributes_with_trls_values(kind, settings, tiny_model, tmp_path):
    ours, theirs = (plain(made(classes, kind, tiny_model, tmp_path, **settings)) for classes in (OURS, THEIRS))
    own = {"f_divergence_type", "f_alpha_divergence_coef", "label_smoothing"}  # `None` for a loss that reads none
    differing = {name for name in theirs if name not in ours or ours[name] != theirs[name]} - EXPLAINED[kind]
    assert {name for name in differing if name not in own or ours[name] is not None} == set()


def reward(completions, **kwargs):
    return [float(len(text)) for text in completions]


def test_beta_of_sampling_trainers_is_the_coefficient_in_use(tiny_model, tmp_path):
    common = arguments(tmp_path, per_device_train_batch_size=4) | {"max_length": None, "max_steps": 1}
    common = {key: value for key, value in common.items() if key != "max_length"}
    common |= {"num_generations": 2, "max_completion_length": 3}
    prompts = [{"prompt": row["prompt"]} for row in pairs(4)]
    for trainer_class, config, beta in (
        (PPOTrainer, PPOConfig(**common, kl_coef=0.07), 0.07),
        (OnlinePreferenceTrainer, OnlinePreferenceConfig(**common, beta=0.2), 0.2),
        (OnlinePreferenceTrainer, OnlinePreferenceConfig(**common, loss="simpo"), 2.0),
        (RLOOTrainer, RLOOConfig(**common, beta=0.07), 0.07),
    ):
        trainer = build(trainer_class, config, tiny_model, examples=prompts, reward_funcs=reward)
        assert trainer.beta == beta
        if getattr(config, "loss", None) == "simpo":  # reads no reference, so no KL is measured
            trainer.train()
            assert trainer.beta == beta and not any("kl" in entry for entry in trainer.state.log_history)


# Logs ---------------------------------------------------------------------------------------------------------------

MORE = {f"{name}/{side}" for name in ("logps_per_token", "log_ratio") for side in ("chosen", "rejected")}
"""What ours log beside TRL's metrics."""


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_logs_have_trls_keys_and_the_documented_ones(kind, tiny_model, tmp_path):
    keys = []
    for classes in (OURS, THEIRS):
        strategy = {"train_sampling_strategy": "sequential"} if kind == "kto" else {}
        trainer = made(classes, kind, tiny_model, tmp_path, max_steps=1, **strategy)
        trainer.train()
        trainer.evaluate(trainer.train_dataset.select(range(4)))
        keys.append({key for entry in trainer.state.log_history for key in entry})
    ours, theirs = keys
    assert ours - theirs == MORE | {f"eval_{name}" for name in MORE}
    assert theirs - ours == set()
    assert not any(APART in key for key in ours)


# The cache of the device --------------------------------------------------------------------------------------------


def test_the_cache_is_emptied_as_often_as_by_trl(tiny_model, tmp_path, monkeypatch):
    counts = []
    for classes, module in ((OURS, device_cache), (THEIRS, transformers.trainer)):
        emptied = []
        monkeypatch.setattr(module, "clear_device_cache", lambda *args, emptied=emptied, **kw: emptied.append(1))
        made(classes, "dpo", tiny_model, tmp_path, torch_empty_cache_steps=2).train()
        counts.append(len(emptied))
    assert counts == [2, 2]  # at steps 0 and 2 of three


# The card -----------------------------------------------------------------------------------------------------------


def tags(folder: Path) -> set[str]:
    return set(yaml.safe_load(folder.joinpath("README.md").read_text(encoding="utf-8").split("---")[1])["tags"])


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_the_card_has_the_tags_of_trls(kind, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("JOB_ID", "1")
    for classes in (OURS, THEIRS):
        strategy = {"train_sampling_strategy": "sequential"} if kind == "kto" else {}
        name = classes[kind][0].__module__.partition(".")[0]
        trainer = made(classes, kind, tiny_model, tmp_path / name, **strategy)
        trainer.create_model_card(model_name="m", dataset_name="some/data", tags="mine")
        assert {"trl", kind} <= set(trainer.model.get_base_model().model_tags)
    ours, theirs = tags(tmp_path / "trl_ext"), tags(tmp_path / "trl")
    assert {"trl", kind, "mine", "hf_jobs"} <= theirs <= ours
    assert ours - theirs == {"trl-ext", "preference-optimization"}


def test_tags_name_the_loss_and_not_a_trainer_that_lacks_it():
    assert trl_spelling.tags("ipo", "dpo") == ["dpo", "ipo"]
    assert trl_spelling.tags("simpo", "dpo") == ["simpo"]
    assert trl_spelling.tags({"simpo": 1, "sft": 0.1}, "dpo") == ["dpo", "simpo", "sft"]
    assert trl_spelling.tags("kto", "kto") == ["kto"]
