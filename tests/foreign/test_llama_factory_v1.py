"""Files in the newer form of LLaMA-Factory, whose trainer is named on the command line."""

import pytest

from trl_ext import recipe
from trl_ext.drafting.conversion import convert
from trl_ext.recipe import reader

V1 = """\
model: embedded
train_dataset: embedded
peft_config: {name: lora, r: 16, target_modules: all}
quant_config: {name: bnb, quantization_bit: 4}
micro_batch_size: 2
global_batch_size: 16
cutoff_len: 512
"""


@pytest.mark.parametrize(
    ("trainer", "trained"),
    [("dpo", {"loss": "dpo", "beta": 0.1}), ("sft", {"trainer": "sft"}), ("reward", {"trainer": "reward"})],
)
def test_files_of_v1_are_for_the_trainer_that_is_asked_for(trainer, trained, tmp_path):
    made = convert(reader.parse(V1), trainer)
    found = {key: line.value for key, line in {**made.settings, **made.defaults}.items()}
    expected = {
        "model_name_or_path": "embedded", "dataset_name": "embedded", "use_peft": True, "lora_r": 16, "lora_target_modules": "all-linear",
        "load_in_4bit": True, "use_bnb_nested_quant": True, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8,
        "max_length": 512, "lr_scheduler_type": "constant", "weight_decay": 0.01, "save_strategy": "no",
    } | trained  # fmt: skip
    assert expected.items() <= found.items()
    path = tmp_path / "recipe.yaml"
    path.write_text(reader.write(found))
    recipe.load(path)


@pytest.mark.parametrize(("more", "key", "trained"), [("pref_loss: simpo\n", "loss", "simpo"), ("", "trainer", "sft")])
def test_without_it_the_loss_on_pairs_decides(more, key, trained):
    assert convert(reader.parse(V1 + more)).settings[key].value == trained
