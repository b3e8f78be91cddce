"""A LoRA run at a rate meant for full fine-tuning is told the usual range; other rates and runs are not."""

import pytest

from trl_ext.checks import usual_rates
from trl_ext.losses import describe, describe_mix
from trl_ext.methods import METHODS
from trl_ext.recipe import load, shipped

LORA = "model_name_or_path: some/model-7b\ndataset_name: some/pairs\nuse_peft: true\n"


def notes(tmp_path, text):
    loss = "" if "\nloss: " in text or "\ntrainer: " in text else "loss: dpo\n"
    (tmp_path / "r.yaml").write_text(text + loss)
    return [note for note in load(str(tmp_path / "r.yaml"), {}).notes if "rate for training all weights" in note]


def test_the_silent_default(tmp_path):
    assert notes(tmp_path, LORA) == [
        "`learning_rate` is not set, so it is 1e-06, which is a rate for training all weights. An adapter of rank 16 with "
        "`lora_alpha` 32 hardly changes at this rate. Usual rates for dpo are 5e-06 to 5e-05. Set `learning_rate: 5e-06`."
    ]


@pytest.mark.parametrize(
    ("settings", "usual"),
    [
        (
            "learning_rate: 1e-6\nloss: simpo\nlora_r: 64",
            "rank 64 with `lora_alpha` 32 hardly changes at this rate. Usual rates for simpo are 1e-05 to 0.0001",
        ),
        ("learning_rate: 1e-6\nlora_alpha: 16", "Usual rates for dpo are 1e-05 to 0.0001"),
        ("learning_rate: 2e-7\nuse_rslora: true", "Usual rates for dpo are 1e-06 to 1e-05"),
        ("trainer: sft\nlearning_rate: 2e-5", "Usual rates for supervised fine-tuning are 0.0002 to 0.002"),
        ("model_name_or_path: embedded\nlearning_rate: 1e-6", "Usual rates for dpo are 0.0005 to 0.005"),
    ],
)
def test_loss_rank_and_model_decide(tmp_path, settings, usual):
    given = {line.partition(":")[0] for line in settings.splitlines()}
    kept = "".join(f"{line}\n" for line in LORA.splitlines() if line.partition(":")[0] not in given)
    [note] = notes(tmp_path, f"{kept}{settings}\n")
    assert usual in note and note.startswith("`learning_rate` (line ")


@pytest.mark.parametrize(
    "settings",
    [
        "learning_rate: 5e-6",
        "learning_rate: 2e-6",
        "use_peft: false",
        "learning_rate: 1e-6\noptim: sgd",
        "lora_alpha: 320",
    ],
)
def test_other_runs_are_not_told(tmp_path, settings):
    text = LORA.replace("use_peft: true\n", "") if "use_peft" in settings else LORA
    assert notes(tmp_path, f"{text}{settings}\n") == []


def test_a_mix_has_the_rate_of_its_slowest_part():
    paired = METHODS["paired"]
    assert usual_rates.smallest(paired, describe_mix({"simpo": 1.0, "dpo": 1.0})) == 5e-6
    assert usual_rates.smallest(paired, describe_mix({"simpo": 1.0, "sft": 0.2})) == 1e-5
    assert usual_rates.smallest(paired, describe("sft")) == 1e-4


def test_no_shipped_recipe_is_told():
    for recipe in shipped.every():
        assert not any("rate for training all weights" in note for note in load(str(recipe.path), {}).notes), (
            recipe.name
        )
