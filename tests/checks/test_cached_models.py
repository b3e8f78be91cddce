"""A model in the cache of the Hub is judged by the files that are there, without a network and before weights are loaded."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from trl_ext.checks import packages
from trl_ext.recipe import load
from trl_ext.support.errors import UserError

NAME = "nobody/cached"
MIXTURE = {"model_type": "qwen3_moe", "num_experts": 8}
NAMES = [
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.experts.0.up_proj.weight",
    "model.embed_tokens.weight",
]
INDEX = {"weight_map": {name: f"model-0000{i + 1}-of-00003.safetensors" for i, name in enumerate(NAMES)}}


@pytest.fixture
def cache():
    """Writes files of a repository into the cache."""
    made = []

    def make(name: str = NAME, revision: str = "main", **files) -> None:
        home = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
        folder = home / "snapshots" / f"commit-of-{revision}"
        folder.mkdir(parents=True, exist_ok=True)
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / revision).write_text(folder.name)
        for file, content in files.items():
            (folder / f"{file}.json").write_text(json.dumps(content))
        made.append(home)

    yield make
    for home in made:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def said(tmp_path):
    """What loading a recipe on the model says; empty if it is accepted."""

    def judge(**values) -> str:
        values = {"model_name_or_path": NAME, "dataset_name": "embedded", "use_peft": True} | values
        file = tmp_path / "r.yaml"
        file.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
        try:
            load(file, to_train=True)
        except UserError as error:
            return str(error)
        return ""

    return judge


@pytest.mark.parametrize(
    ("kind", "absent", "command"),
    [
        ("awq", {"gptqmodel"}, "`pip install gptqmodel`"),
        ("gptq", {"gptqmodel", "optimum"}, "`pip install gptqmodel optimum`"),
        ("compressed-tensors", {"compressed_tensors"}, "`pip install compressed-tensors`"),
    ],
)
def test_missing_packages_are_named(kind, absent, command, cache, said, monkeypatch):
    cache(config={"model_type": "llama", "quantization_config": {"quant_method": kind, "bits": 4}})
    monkeypatch.setattr(packages, "is_installed", lambda name: name not in absent)
    sentence = said()
    assert f"is {NAME}, which is stored quantised" in sentence and f"Run {command}." in sentence
    monkeypatch.setattr(packages, "is_installed", lambda name: True)
    assert said() == ""


def test_what_cannot_be_trained_is_refused(cache, said):
    stored = {"quant_method": "hqq"}
    cache(config={"model_type": "llama", "quantization_config": stored, "base_model": "org/Model-7B"})
    assert "cannot load HQQ checkpoints. Name its 16-bit original, org/Model-7B." in said()


def test_the_revision_is_that_of_the_recipe(cache, said):
    cache(config={"model_type": "llama"})
    cache(revision="hqq", config={"model_type": "llama", "quantization_config": {"quant_method": "hqq"}})
    assert said() == "" and "cannot load HQQ" in said(model_revision="hqq") and said(model_revision="v9") == ""


def test_an_adapter_in_the_cache_is_judged_by_its_base(cache, said):
    cache(adapter_config={"peft_type": "LORA", "base_model_name_or_path": "nobody/base", "task_type": "CAUSAL_LM"})
    assert said() == ""
    cache("nobody/base", config={"model_type": "llama", "quantization_config": {"quant_method": "hqq"}})
    assert "nobody/base is stored quantised (HQQ)" in said()


@pytest.mark.parametrize(
    ("files", "target", "sentence"),
    [
        (
            {},
            "experts.gate_up_prj",
            "names experts.gate_up_prj, which nobody/cached does not have: did you mean gate_up_proj?",
        ),
        (
            {},
            "mlp.experts.w1",
            "names mlp.experts.w1, which nobody/cached does not have: weights of experts are experts.gate_up_proj",
        ),
        ({}, "layers.0.mlp.experts.down_proj", ""),
        ({}, "q_prj.weight", ""),  # config.json does not tell
        ({"model.safetensors.index": INDEX}, "experts.down_prj", "did you mean down_proj?"),
        ({"model.safetensors.index": INDEX}, "self_attn.q_proj.wight", "did you mean weight?"),
        ({"model.safetensors.index": INDEX}, "experts.gate_up_proj", ""),
    ],
)
def test_names_of_parameters_are_checked(files, target, sentence, cache, said):
    cache(config=MIXTURE, **files)
    found = said(lora_target_parameters=[target])
    assert sentence in found if sentence else found == ""


def test_names_of_a_dense_model_are_checked_by_the_index(cache, said):
    index = {"weight_map": {name: "model-00001-of-00002.safetensors" for name in NAMES if "expert" not in name}}
    cache(config={"model_type": "llama"}, **{"model.safetensors.index": index})
    assert "did you mean q_proj.weight?" in said(lora_target_parameters=["q_prj.weight"])
    assert said(lora_target_parameters=["q_proj.weight"]) == ""
    assert said(lora_target_modules=["q_prj"]) == ""  # shapes, which tell what is linear, are in the files
