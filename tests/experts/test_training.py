"""A run on a mixture whose experts are in 4 bits, from its first step to the merged model."""

import json
import re
import shutil

import pytest
import torch
import yaml
from bitsandbytes.nn import Linear4bit
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests.conftest import pairs
from tests.experts.helpers import EXPERTS, ids, load, weight
from tests.trainers.helpers import arguments, lora, nf4
from trl_ext.cli import main
from trl_ext.experts import quantizer, storage
from trl_ext.reference.identity import reference_identity
from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer
from trl_ext.trainers.rollout.merged_copy import MergedCopy

TARGETS = [None, EXPERTS]


def trainer_on(mixture, output, *, parameters=None, **changes):
    quantizer.install()
    torch.manual_seed(0)
    return PairedPreferenceTrainer(
        model=mixture,
        args=PairedPreferenceConfig(
            **arguments(output, **{"optim": "adamw_torch", "router_aux_loss_coef": 0.0} | changes)
        ),
        train_dataset=Dataset.from_list(pairs(24)),
        processing_class=AutoTokenizer.from_pretrained(mixture),
        peft_config=lora(target_modules=["q_proj", "v_proj"], target_parameters=parameters),
        quantization_config=nf4(),
    )


def base_weights(model):
    model = model.get_base_model()
    found = {}
    for path, module in model.named_modules():
        found |= {f"{path}.{n}": storage.packed(module, n).dequantised() for n in storage.in_4_bits(module)}
        if isinstance(module, Linear4bit):
            found[path] = weight(module, "weight").clone()
    return found


def losses(trainer):
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


@pytest.mark.parametrize("parameters", TARGETS, ids=["attention", "experts"])
def test_training_moves_the_adapter_alone(parameters, mixture, tmp_path):
    trainer = trainer_on(mixture, tmp_path / "a", parameters=parameters)
    before, identity = base_weights(trainer.model), reference_identity(trainer.model)
    assert len(before) == 4 + 8  # two weights of experts and four linear layers in each of two layers
    trainer.train()
    after = base_weights(trainer.model)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert reference_identity(trainer.model) == identity
    moved = [name for name, p in trainer.model.named_parameters() if "lora_B" in name and p.abs().sum() > 0]
    assert len(moved) == (4 if parameters is None else 8)
    assert losses(trainer)[0] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-5)
    assert losses(trainer)[-1] < losses(trainer)[0]


@pytest.mark.parametrize("parameters", TARGETS, ids=["attention", "experts"])
def test_packed_rows_padded_rows_and_recomputed_layers_agree(parameters, mixture, tmp_path):
    runs = {
        "packed": {"packing": True},
        "padded": {"packing": False},
        "recomputed": {"packing": True, "gradient_checkpointing": True},
    }
    found = {}
    for name, changes in runs.items():
        trainer = trainer_on(mixture, tmp_path / name, parameters=parameters, **changes)
        trainer.train()
        assert trainer.rows.is_packed is (name != "padded")
        found[name] = losses(trainer)
    for name in ("padded", "recomputed"):
        assert found[name] == pytest.approx(found["packed"], abs=1e-5)


def test_the_auxiliary_loss_of_the_router_is_that_of_trl(mixture, tmp_path):
    one_row = {"per_device_train_batch_size": 1}  # it is computed for each row
    ours = trainer_on(mixture, tmp_path / "ours", router_aux_loss_coef=None, **one_row)
    theirs = DPOTrainer(
        model=mixture,
        args=DPOConfig(**arguments(tmp_path / "theirs", **one_row)),
        train_dataset=Dataset.from_list(pairs(24)),
        processing_class=AutoTokenizer.from_pretrained(mixture),
        peft_config=lora(target_modules=["q_proj", "v_proj"]),
        quantization_config=nf4(),
    )
    found = []
    for trainer in (theirs, ours):
        keep_exact_cpu_kernels(trainer.model)
        trainer.train()
        assert trainer.router_aux_loss_coef == 0.1 and trainer.aux_loss_enabled
        found.append(trainer.state.log_history[0])
    assert found[1]["aux_loss"] == pytest.approx(found[0]["aux_loss"], rel=1e-4) and found[0]["aux_loss"] > 1
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=1e-5) and found[0]["loss"] > 0.75


def test_the_identity_of_the_reference_includes_the_experts(mixture):
    model = load(mixture)
    identity = reference_identity(model)
    experts = model.model.layers[1].mlp.experts
    assert reference_identity(load(mixture)) == identity
    state = storage.packed(experts, "down_proj").state
    state.absmax[0] += 1
    assert reference_identity(model) != identity


def test_a_merged_copy_for_sampling_has_the_dequantised_experts(mixture, tmp_path):
    trainer = trainer_on(mixture, tmp_path)
    trainer.train()
    policy = trainer.model.eval()
    copied = MergedCopy(policy, torch.float32).model
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        expected = policy(tokens).logits
        assert (copied(tokens).logits - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.fixture
def recipe(mixture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Dataset.from_list(pairs(24)).to_json("pairs.jsonl")

    def write(**changes) -> str:
        settings = {
            "model_name_or_path": mixture,
            "dataset_name": "pairs.jsonl",
            "use_peft": True,
            "load_in_4bit": True,
            "lora_r": 4,
            "lora_target_modules": "all-linear",
            "learning_rate": 5e-3,
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "gradient_checkpointing": True,
            "router_aux_loss_coef": 0.0,
            "logging_steps": 1,
            "max_length": 32,
            "eval_size": 4,
            "save_strategy": "steps",
            "save_steps": 2,
            "disable_tqdm": True,
            **changes,
        }
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
        return "small.yaml"

    return write


def test_a_run_is_resumed_and_merged(recipe, mixture, tmp_path, capsys):
    path = recipe(lora_target_parameters=EXPERTS)
    assert main(["run", path, "--output_dir", "whole"]) == 0
    assert "Experts are among the targets of the LoRA" in re.sub(r"\s+", " ", capsys.readouterr().out)
    shutil.copytree("whole", "half")
    for name in ("checkpoint-4", "adapter_model.safetensors"):
        path_of = tmp_path / "half" / name
        shutil.rmtree(path_of) if path_of.is_dir() else path_of.unlink()
    assert main(["run", path, "--output_dir", "half", "--resume_from_checkpoint", "true"]) == 0
    whole, half = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "half"))
    assert len(whole) == 24 and all(torch.equal(half[name], weight) for name, weight in whole.items())
    saved = {f.name for f in (tmp_path / "whole" / "checkpoint-2").glob("*.safetensors")}
    assert saved == {"adapter_model.safetensors"}

    capsys.readouterr()
    assert main(["merge", "whole", "--output", "merged", "--dtype", "float32", "--json"]) == 0
    drift = json.loads(capsys.readouterr().out)["fidelity"]
    assert drift["rounding"]["kl"] < 1e-6 and drift["base"] == "4-bit"  # the rest is the quantisation
    assert drift["quantisation"]["kl"] > 1e-4 and drift["training"]["kl"] > 1e-4
    plain = AutoModelForCausalLM.from_pretrained(mixture, dtype=torch.float32)
    with torch.no_grad():
        base = plain(ids()).logits
        expected = PeftModel.from_pretrained(plain, str(tmp_path / "whole"))(ids()).logits
        assert (expected - base).abs().max() > 1e-3
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(ids()).logits
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_all_linear_means_attention(recipe, tmp_path, capsys):
    assert main(["run", recipe(max_steps=1), "--output_dir", "out"]) == 0
    content = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert sorted(content["target_modules"]) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert not content["target_parameters"]
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "stored in 4 bits. The LoRA is on the linear layers outside the experts" in printed


def test_dropout_on_experts_is_refused_before_weights_are_loaded(recipe, capsys):
    asked = recipe(lora_target_parameters=EXPERTS, lora_dropout=0.1, disable_dropout=False)
    assert main(["run", asked, "--output_dir", "out"]) == 2
    assert "PEFT has no dropout for a LoRA on experts" in re.sub(r"\s+", " ", capsys.readouterr().err)
