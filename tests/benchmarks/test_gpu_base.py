"""Random models in 4 bits against what bitsandbytes makes of the same 16-bit weights, and against published counts."""

import weakref
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, BitsAndBytesConfig

from benchmarks.gpu import cases, random_base
from benchmarks.gpu.bench import write_model
from tests.planner.test_counting import PARAMETERS
from trl_ext.planner import counting
from trl_ext.planner.models import MODELS

CPU = torch.device("cpu")
FAMILIES = ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-4B", "google/gemma-3-12b-it")  # untied; tied; with a vision tower


def nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def folder(place: Path, name: str) -> str:
    write_model(place / "model", cases.shrunk(MODELS[name]))
    return str(place / "model")


def build(path: str) -> torch.nn.Module:
    return random_base.build(path, CPU, dtype="bfloat16", quantization_config=nf4())


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_what_bitsandbytes_makes_of_the_same_weights(name, tmp_path):
    path = folder(tmp_path, name)
    direct = build(path)
    # The same model in 16 bits, written and then loaded in 4 bits as anybody would.
    config = AutoConfig.from_pretrained(path)
    whole = random_base.architecture(config, is_classifier=False)._from_config(config, dtype=torch.bfloat16)
    drawn = random_base.checkpoint(whole, CPU)
    values = {n: drawn[n][...] if n in drawn else direct.state_dict()[n] for n in whole.state_dict()}
    whole.load_state_dict(values)
    whole.save_pretrained(tmp_path / "whole")
    loaded = type(direct).from_pretrained(tmp_path / "whole", dtype=torch.bfloat16, quantization_config=nf4())

    ours, theirs = direct.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert sum("quant_state" in key for key in ours) >= 14  # seven projections in each of two layers
    different = [key for key in theirs if not torch.equal(ours[key], theirs[key])]
    assert different == []
    buffers = dict(loaded.named_buffers())
    assert buffers.keys() == dict(direct.named_buffers()).keys()
    assert all(torch.equal(b, buffers[n]) and b.device == CPU for n, b in direct.named_buffers())
    ids = torch.arange(12)[None] + 20
    with torch.no_grad():
        assert torch.equal(direct(input_ids=ids).logits, loaded(input_ids=ids).logits)
    assert direct.is_loaded_in_4bit and direct.config.quantization_config.bnb_4bit_use_double_quant
    assert direct.get_output_embeddings().weight.dtype == torch.bfloat16


def test_no_two_16_bit_weights_exist_at_a_time(tmp_path, monkeypatch):
    path = folder(tmp_path, "Qwen/Qwen3-4B")  # whose head is tied, so that every drawn weight is quantised
    read, alive = random_base.Drawn.__getitem__, []

    def watched(self, index):
        assert not any(reference() is not None for reference in alive), f"{self.name} is read too early"
        value = read(self, index)
        alive.append(weakref.ref(value))
        return value

    monkeypatch.setattr(random_base.Drawn, "__getitem__", watched)
    build(path)
    assert len(alive) == 14


def test_a_model_is_the_same_every_time(tmp_path):
    path = folder(tmp_path, "Qwen/Qwen3-4B")
    first, second = build(path), build(path)
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(first.state_dict()[name], second.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], first.state_dict()[name.replace("down", "up")])


@pytest.mark.parametrize("name", sorted({cases.model_of(name) for name in cases.names()}))
def test_the_shapes_are_the_published_ones(name, tmp_path):
    write_model(tmp_path / "model", MODELS[name])
    config = AutoConfig.from_pretrained(tmp_path / "model")
    with torch.device("meta"):
        model = random_base.architecture(config, is_classifier=False)._from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    head = model.get_output_embeddings().weight
    drawn = random_base.checkpoint(model, torch.device("meta"))
    linear = sum(weight.shape.numel() for weight in drawn.values())
    is_tied = head is model.get_input_embeddings().weight
    assert linear - (0 if is_tied else head.numel()) == counting.count(MODELS[name], 16).quantised
