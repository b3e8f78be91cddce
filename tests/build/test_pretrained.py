"""Models are loaded as by the functions of TRL whose import is avoided."""

import itertools

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, LlamaConfig
from trl import ModelConfig, get_quantization_config
from trl.trainer import utils

from trl_ext.build import pretrained


@pytest.mark.parametrize("settings", itertools.product((True, False), ("nf4", "fp4"), ("uint8", "bfloat16")))
@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit", None])
def test_quantisation(bits, settings):
    nested, kind, storage = settings
    chosen = {"use_bnb_nested_quant": nested, "bnb_4bit_quant_type": kind, "bnb_4bit_quant_storage": storage}
    args = ModelConfig(model_name_or_path="m", dtype="bfloat16", **chosen, **({bits: True} if bits else {}))
    ours, theirs = pretrained.quantisation(args, torch.bfloat16), get_quantization_config(args)
    assert (ours is None) == (theirs is None)
    assert ours is None or ours.to_dict() == theirs.to_dict()


@pytest.mark.parametrize(
    "init", [{}, {"dtype": "auto"}, {"dtype": "bfloat16"}, {"dtype": torch.float16}, {"device_map": None}], ids=str
)
def test_arguments_are_those_of_trl(init, tiny_model, monkeypatch):
    given = []
    monkeypatch.setattr(
        transformers.LlamaForCausalLM, "from_pretrained", lambda path, **kwargs: given.append((path, kwargs))
    )
    pretrained.load(tiny_model, **init)
    utils.create_model_from_path(tiny_model, **init)
    (path, ours), (their_path, theirs) = given
    assert path == their_path and str(torch_dtype(ours.pop("dtype"))) == str(torch_dtype(theirs.pop("dtype")))
    assert ours == theirs


def torch_dtype(dtype):
    return getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype


def test_the_class_is_that_of_the_configuration(tiny_model):
    loaded, of_trl = pretrained.load(tiny_model), utils.create_model_from_path(tiny_model)
    assert type(loaded) is type(of_trl)
    for (name, one), (other_name, other) in zip(loaded.state_dict().items(), of_trl.state_dict().items(), strict=True):
        assert name == other_name and one.dtype == other.dtype and torch.equal(one, other)
    classifier = pretrained.load(tiny_model, AutoModelForSequenceClassification, num_labels=1)
    assert type(classifier).__name__.endswith("ForSequenceClassification")


@pytest.mark.parametrize(
    "auto_map", [{}, {"AutoModelForImageTextToText": "x.Y"}, {"AutoModelForCausalLM": "x.Y"}], ids=str
)
def test_remote_code(auto_map, monkeypatch):
    config = LlamaConfig(architectures=["OfRemoteCode"])
    config.auto_map = auto_map
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: config)
    loaded = []
    for name in ("AutoModelForCausalLM", "AutoModelForImageTextToText"):
        monkeypatch.setattr(
            getattr(transformers, name), "from_pretrained", lambda *_, name=name, **__: loaded.append(name)
        )
    pretrained.load("nobody/remote", trust_remote_code=True)
    utils.create_model_from_path("nobody/remote", trust_remote_code=True)
    assert loaded[0] == loaded[1]
