"""Fields read from source against the imported classes themselves."""

import dataclasses
import subprocess
import sys

import pytest

from trl_ext import schema

CLASSES = {
    "TrainingArguments": "transformers",
    "_BaseConfig": "trl.trainer.base_config",
    "DPOConfig": "trl",
    "KTOConfig": "trl",
    "RLOOConfig": "trl",
    "RewardConfig": "trl",
    "SFTConfig": "trl",
    "PPOConfig": "trl_ext.trainers.ppo_config",
    "PPOExtras": "trl_ext.recipe.extras",
    "ModelConfig": "trl",
    "ScriptArguments": "trl",
    "DatasetConfig": "trl.scripts.utils",
    "DatasetMixtureConfig": "trl",
    "PairedPreferenceConfig": "trl_ext.trainers.config",
    "UnpairedPreferenceConfig": "trl_ext.trainers.config",
    "ModelExtras": "trl_ext.recipe.extras",
    "DataExtras": "trl_ext.recipe.extras",
}


def imported(name: str) -> type:
    return getattr(__import__(CLASSES[name], fromlist=[name]), name)


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
    kinds = [schema.training(kind) for kind in schema.CONFIGS]
    unread = {
        field.name
        for every in (*kinds, schema.model(), schema.data())
        for field in every.values()
        if not field.kinds - {"None"}
    }
    assert unread == {"parallelism_config"}


def test_reading_imports_nothing_heavy():
    code = (
        "import sys; from trl_ext import schema; [schema.training(kind) for kind in schema.CONFIGS], schema.model(), schema.data();"
        "print(sorted({'torch', 'transformers', 'trl', 'datasets', 'peft', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def field(annotation: str, choices: tuple[str, ...] | None = None) -> schema.Field:
    return schema.Field("key", annotation, None, choices, "", "Config")


@pytest.mark.parametrize(
    ("annotation", "given", "converted"),
    [
        ("int", 3, 3),
        ("int", 1e3, 1000),
        ("int", "8", 8),
        ("float", 5, 5),
        ("float", "5e-6", 5e-6),
        ("bool", True, True),
        ("bool", "false", False),
        ("str", "x", "x"),
        ("str | None", None, None),
        ("int | None", "none", None),
        ("list[str]", ["a"], ["a"]),
        ("list[str] | None", "all-linear", ["all-linear"]),
        ("None | str | list[str]", "wandb", "wandb"),
        ("dict | str | None", {"a": 1}, {"a": 1}),
        ("int | str", "auto", "auto"),
        ("int | str", 4096, 4096),
        ("float | str | None", 1.5, 1.5),
        ("Optional[int]", None, None),
        ("Union[int, str]", "x", "x"),
        ("Any", [1], [1]),
    ],
)
def test_values_that_fit(annotation, given, converted):
    result = schema.convert(field(annotation), given)
    assert result == converted and type(result) is type(converted)


@pytest.mark.parametrize(
    ("annotation", "given", "sentence"),
    [
        ("float", "fast", "is 'fast': give a number."),
        ("int", 0.5, "is 0.5: give a whole number."),
        ("int", True, "is true: give a whole number."),
        ("bool", 1, "is 1: give true or false."),
        ("float", [1], "is a list: give a number."),
        ("float", None, "is empty: give a number, or remove the line."),
        ("int | None", {}, "is a mapping: give a whole number or null."),
        ("str", 7, "is 7: give text (in quotes if it is meant literally)."),
        ("dict[str, str] | None", "x", "is 'x': give a mapping or null."),
    ],
)
def test_values_that_do_not(annotation, given, sentence):
    with pytest.raises(ValueError) as caught:
        schema.convert(field(annotation), given)
    assert str(caught.value) == sentence


def test_choices():
    strategy = field("IntervalStrategy | str", ("no", "steps", "epoch"))
    assert schema.convert(strategy, "steps") == "steps"
    assert schema.convert(strategy, False) == "no"  # what YAML makes of an unquoted no
    with pytest.raises(ValueError, match="is 'step': did you mean steps"):
        schema.convert(strategy, "step")
    with pytest.raises(ValueError, match="allowed are epoch, no, steps"):
        schema.convert(strategy, "weekly")
