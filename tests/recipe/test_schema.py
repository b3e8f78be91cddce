"""Fields read from source against the imported classes themselves."""

import dataclasses
import importlib
import subprocess
import sys
from typing import Literal

import pytest

from trl_ext.methods import METHODS
from trl_ext.recipe import schema

CLASSES = {
    "TrainingArguments": "transformers",
    "_BaseConfig": "trl.trainer.base_config",
    "DPOConfig": "trl",
    "KTOConfig": "trl",
    "trl.RLOOConfig": "trl",
    "trl.GRPOConfig": "trl",
    "RewardConfig": "trl",
    "SFTConfig": "trl",
    "PPOConfig": "trl_ext.trainers.ppo.config",
    "RewardExtras": "trl_ext.recipe.extras",
    "ModelConfig": "trl",
    "ScriptArguments": "trl",
    "DatasetConfig": "trl.scripts.utils",
    "DatasetMixtureConfig": "trl",
    "PairedPreferenceConfig": "trl_ext.trainers.preference.config",
    "UnpairedPreferenceConfig": "trl_ext.trainers.preference.config",
    "ModelExtras": "trl_ext.recipe.extras",
    "DataExtras": "trl_ext.recipe.extras",
    "RunExtras": "trl_ext.recipe.extras",
    "EvaluationKeys": "trl_ext.recipe.extras",
    "SearchKeys": "trl_ext.recipe.extras",
}


def imported(name: str) -> type:
    return getattr(importlib.import_module(CLASSES[name]), name.rpartition(".")[2])


@pytest.mark.parametrize("name", CLASSES)
def test_nothing_is_missing_and_nothing_extra(name):
    read = schema.fields(name)
    real = {field.name: field for field in dataclasses.fields(imported(name))}
    assert list(read) == list(real)
    for key, field in read.items():
        if field.default is not schema.MISSING:
            factory = real[key].default_factory
            default = real[key].default if factory is dataclasses.MISSING else factory()
            assert field.default == default, key
        choices = real[key].metadata.get("choices")
        if field.choices and choices:
            assert field.choices == tuple(choices), key


@pytest.mark.parametrize(
    ("key", "module", "enumeration"),
    [
        ("optim", "transformers.training_args", "OptimizerNames"),
        ("lr_scheduler_type", "transformers.trainer_utils", "SchedulerType"),
        ("eval_strategy", "transformers.trainer_utils", "IntervalStrategy"),
        ("save_strategy", "transformers.trainer_utils", "SaveStrategy"),
        ("hub_strategy", "transformers.trainer_utils", "HubStrategy"),
    ],
)
def test_enumerations_become_choices(key, module, enumeration):
    real = getattr(__import__(module, fromlist=[enumeration]), enumeration)
    assert schema.training("paired")[key].choices == tuple(member.value for member in real)


def test_every_annotation_is_understood():
    # `parallelism_config` takes an object that YAML cannot write: only null is left.
    kinds = [schema.training(kind) for kind in METHODS]
    unread = {
        field.name
        for every in (*kinds, schema.model(), schema.data())
        for field in every.values()
        if not field.kinds - {"None"}
    }
    assert unread == {"parallelism_config"}


def test_types_for_the_parsers_of_flags_are_read_as_what_they_stand_for():
    from trl_ext.trainers.common import flags

    for name, meaning in schema.OWN_TYPES.items():
        supertype = getattr(flags, name).__supertype__
        assert eval(meaning, {"Literal": Literal}) == supertype
    assert schema.training("paired")["gradient_checkpointing"].kinds == {"bool", "str"}
    assert schema.training("paired")["gradient_checkpointing"].choices == ("auto",)


def test_reading_imports_nothing_heavy():
    code = (
        "import sys; from trl_ext.methods import METHODS; from trl_ext.recipe import schema; [schema.training(kind) for kind in METHODS], schema.model(), schema.data();"
        "print(sorted({'torch', 'transformers', 'trl', 'datasets', 'peft', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
