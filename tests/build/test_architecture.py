"""Models whose config.json is damaged: one sentence before the weights, wherever a model is loaded."""

import json
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trl_ext import demo
from trl_ext.build import architecture, pretrained
from trl_ext.model_files import model as model_folder
from trl_ext.support.errors import UserError


@pytest.fixture
def damaged(tmp_path):
    """Copies the demo's model with other values in its config.json; `None` removes one."""

    def copy(changes: dict) -> str:
        folder = tmp_path / "model"
        shutil.copytree(demo.MODEL, folder)
        content = json.loads((folder / "config.json").read_text()) | changes
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))
        return str(folder)

    return copy


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": "abc"}, "gives `hidden_size` as 'abc', but it is a whole number above 0"),
        ({"vocab_size": "960"}, "gives `vocab_size` as '960', but it is a whole number above 0"),
        ({"num_hidden_layers": 2.5}, "gives `num_hidden_layers` as 2.5,"),
        ({"num_hidden_layers": -1}, "gives `num_hidden_layers` as -1,"),
        ({"num_attention_heads": True}, "gives `num_attention_heads` as true,"),
        ({"architectures": []}, "gives `architectures` as an empty list, but it is a list with the name of the model's class"),
        ({"architectures": "LlamaForCausalLM"}, "gives `architectures` as 'LlamaForCausalLM', but it is a list"),
        ({"architectures": [3]}, "gives `architectures` as a list, but it is a list with the name"),
        ({"text_config": "x"}, "gives `text_config` as 'x', but it is a mapping"),
        ({"num_hidden_layers": 5}, "has 5 layers by its config.json, or by default if that gives no number, but its weights hold 2"),
    ],
)  # fmt: skip
def test_what_is_seen_without_transformers(damaged, changes, said):
    """`trl-ext validate` does not import it."""
    assert said in model_folder.problem(damaged(changes))


def test_sizes_that_models_have(damaged):
    """One for each layer, and no number where the architecture has a default."""
    folder = damaged({"intermediate_size": [512, 512], "num_key_value_heads": None, "architectures": None})
    assert model_folder.problem(folder) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": "abc"}, r"cannot be built from its config.json: Field 'hidden_size' expected int, got str \(value: 'abc'\)\."),
        ({"num_attention_heads": 7}, r"The hidden size \(192\) is not a multiple of the number of attention heads \(7\)\."),
        ({"num_attention_heads": 0}, "cannot be built from its config.json: ZeroDivisionError: "),
        ({"num_hidden_layers": None}, "has 32 layers by its config.json, or by default if that gives no number, but its weights hold 2"),
        ({"model_type": "foo"}, "cannot be loaded: The checkpoint you are trying to load has model type `foo`"),
        ({"hidden_act": "foo"}, "cannot be built from its config.json: KeyError: 'foo'"),
        ({"num_key_value_heads": 3}, "The weights of .* are not of the sizes that its config.json gives"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_loaded(damaged, changes, said):
    with pytest.raises(UserError, match=said):
        pretrained.load(damaged(changes))


def test_an_error_of_another_cause_stays(damaged):
    with pytest.raises(TypeError, match="of a library"), architecture.loading(damaged({})):
        raise TypeError("of a library")


def test_the_model_on_the_meta_device_is_that_of_transformers(damaged):
    folder = damaged({})
    config = architecture.read(folder)
    assert config.to_dict() == AutoConfig.from_pretrained(folder).to_dict()
    built = {name: tensor.shape for name, tensor in architecture.on_meta(folder, config).state_dict().items()}
    assert built == {
        name: tensor.shape for name, tensor in AutoModelForCausalLM.from_pretrained(folder).state_dict().items()
    }
    head = architecture.on_meta(folder, config, is_classifier=True).score.weight
    assert head.shape == (1, config.hidden_size) and head.device == torch.device("meta")
