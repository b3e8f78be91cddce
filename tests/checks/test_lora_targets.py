"""Targets of a LoRA are looked for in the files of the model, without importing torch."""

import json
import shutil

import pytest

from tests.recipe.helpers import load, load_from, problem
from trl_ext import demo
from trl_ext.model_files import modules

LINEAR = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("q_projj", "names q_projj, which embedded does not have: did you mean q_proj?"),
        ("[q_proj, v_prj]", "names v_prj, which embedded does not have: did you mean v_proj?"),
        ("all_linear", "did you mean all-linear?"),
        ("query_key_value", "which embedded does not have: check its name."),
        ("[all-linear, q_proj]", "names all-linear and others"),
        ("'q_proj,v_proj'", "write the names as a list, [q_proj, v_proj]."),
        ("'.*q_prj'", "a pattern that no module's full name matches."),
        ("'[q_proj'", "neither a name nor a pattern (unterminated character set"),
        ("self_attn.q_proj", "a pattern that no module's full name matches."),
    ],
)
def test_what_the_model_has_not_is_refused(given, said, tmp_path):
    sentence = problem(tmp_path, f"use_peft: true\nlora_target_modules: {given}\n")
    assert "`lora_target_modules` (line 4)" in sentence and said in sentence
    if "names" not in said or "which" in said:
        assert f"Its linear layers are {LINEAR}; `all-linear` selects all of them" in sentence


@pytest.mark.parametrize(
    "given",
    [
        "all-linear",
        "q_proj",
        "[q_proj, v_proj]",
        "'.*q_proj'",
        "model.layers.0.self_attn.q_proj",
        "[self_attn.q_proj, up_proj]",
    ],
)
def test_what_it_has_is_taken(given, tmp_path):
    load(tmp_path, f"use_peft: true\nlora_target_modules: {given}\n")


def test_the_linear_layers_are_those_of_the_model_itself():
    import torch
    from transformers import AutoModelForCausalLM

    named = AutoModelForCausalLM.from_pretrained(demo.MODEL).named_modules()
    linear = {name.rpartition(".")[2] for name, module in named if isinstance(module, torch.nn.Linear)}
    assert modules.names(demo.MODEL)[1] == sorted(linear - {"lm_head"})


def test_a_local_folder_is_judged_and_what_cannot_be_told_is_left_to_the_run(tmp_path):
    folder = shutil.copytree(demo.MODEL, tmp_path / "model")
    text = f"model_name_or_path: {folder}\ndataset_name: embedded\nuse_peft: true\nlora_target_modules: "
    assert f"names w1, which {folder} does not have" in problem(tmp_path, "", base=text + "w1\n")
    entry = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    header = json.dumps({"model.layers.0.mlp.experts.0.w1.weight": entry}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert modules.names(folder) == ([], [])
    load_from(tmp_path, text + "w2\n")
    load_from(tmp_path, text + "all-linear\nlora_target_parameters: [experts.down_proj]\n")
    parameters = "all-linear\nlora_target_parameters: [experts.down_prj]\n"
    assert "names experts.down_prj, which" in (said := problem(tmp_path, "", base=text + parameters))
    assert "did you mean down_proj?" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[q_prj.weight]", "names q_prj.weight, which embedded does not have: did you mean q_proj.weight?"),
        ("[mlp.experts.gate_up_proj]", "names mlp.experts.gate_up_proj, which embedded does not have:"),
        ("[proj.weight]", "names proj.weight, which embedded does not have:"),
    ],
)
def test_parameters_the_model_has_not_are_refused(given, said, tmp_path):
    sentence = problem(tmp_path, f"use_peft: true\nlora_target_parameters: {given}\n")
    assert "`lora_target_parameters` (line 4)" in sentence and said in sentence


@pytest.mark.parametrize(
    "given", ["q_proj.weight", "model.layers.0.self_attn.q_proj.weight", "self_attn.v_proj.weight"]
)
def test_parameters_it_has_are_taken(given, tmp_path):
    load(tmp_path, f"use_peft: true\nlora_target_parameters: [{given}]\n")
