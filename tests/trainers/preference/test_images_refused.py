"""Images that a model, a setting or a recipe cannot train on are refused with a sentence."""

import pytest
import yaml
from transformers import LlavaForConditionalGeneration

from tests.trainers.helpers import arguments, lora
from tests.trainers.preference.images import labelled_images, train
from trl_ext.cli import main
from trl_ext.support.errors import UserError
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)


def test_a_model_that_fails_on_images_is_named(tiny_vlm, tmp_path, monkeypatch):
    """As Llama 4 does with transformers 5.24, whose output lacks a field that it reads."""

    def forward(*args, **kwargs):
        return object().image_outputs

    monkeypatch.setattr(LlavaForConditionalGeneration, "get_image_features", forward)
    monkeypatch.setattr("transformers.models.llava.modeling_llava.LlavaModel.get_image_features", forward)
    with pytest.raises(
        UserError, match=r"LlavaForConditionalGeneration of transformers .* fails on examples with images"
    ):
        train(PairedPreferenceTrainer, PairedPreferenceConfig(**arguments(tmp_path, max_length=None)), tiny_vlm)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"per_device_train_batch_size": 1}, "Give at least 2, or use `loss: apo_zero_unpaired`"),
        ({"precompute_ref_log_probs": True}, "`precompute_ref_log_probs` is not supported for vision datasets"),
    ],
)
def test_what_images_do_not_allow_is_refused_before_the_model_is_read(settings, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        UnpairedPreferenceTrainer(
            model="no-such-model",
            args=UnpairedPreferenceConfig(**arguments(tmp_path, **settings)),
            train_dataset=labelled_images(4),
            peft_config=lora(target_modules=["q_proj"]),
        )


def test_a_recipe_for_images_is_refused_before_weights_are_read(tiny_vlm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labelled_images(4).save_to_disk("pictures")
    recipe = {
        "model_name_or_path": tiny_vlm,
        "dataset_name": "pictures",
        "loss": "kto",
        "max_steps": 1,
        "use_peft": True,
    }
    (tmp_path / "pictures.yaml").write_text(yaml.safe_dump(recipe | {"per_device_train_batch_size": 1}))
    monkeypatch.setattr("trl_ext.build.trainer.load_policy", None)
    assert main(["run", "pictures.yaml", "--output_dir", "out"]) == 2
    assert "pairs each image with the completion of another example" in capsys.readouterr().err
