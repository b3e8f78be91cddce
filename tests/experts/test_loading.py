"""Experts are quantised weight by weight while they are read."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, Qwen3MoeConfig
from trl import ModelConfig

from tests.experts.helpers import MIXTURES, SIZES, load, save, weight
from trl_ext.build import pretrained
from trl_ext.experts import storage
from trl_ext.planner.dry_run import _Live


class Real(_Live):
    """Without the tensors on the meta device, which have no memory."""

    def count(self, tensors):
        super().count(tensor for tensor in tensors if not tensor.is_meta)


@pytest.mark.parametrize("is_double", [True, False])
def test_weights_are_those_that_bitsandbytes_quantises(is_double, tmp_path):
    folder = save(MIXTURES["qwen 3"], tmp_path)
    model = load(folder, is_double=is_double)
    files = load_file(tmp_path / "model.safetensors")
    for layer in range(2):
        names = [f"model.layers.{layer}.mlp.experts.{e}" for e in range(8)]
        gate, up, down = ([files[f"{n}.{part}_proj.weight"] for n in names] for part in ("gate", "up", "down"))
        fused = {"gate_up_proj": torch.cat([torch.stack(gate), torch.stack(up)], 1), "down_proj": torch.stack(down)}
        for part, original in fused.items():
            data, state = quantize_4bit(original, compress_statistics=is_double, quant_type="nf4")
            found = weight(model, f"model.layers.{layer}.mlp.experts.{part}")
            assert torch.equal(found, dequantize_4bit(data, state)) and not torch.equal(found, original)


@pytest.mark.parametrize("name", MIXTURES)
def test_what_is_quantised(name, tmp_path):
    folder = save(MIXTURES[name], tmp_path)
    model = load(folder, dtype="bfloat16")
    for module in model.modules():
        if storage.are_experts(module):
            assert set(storage.in_4_bits(module)) == {"gate_up_proj", "down_proj"}
            assert all(
                p.data.dtype == torch.uint8 for p in (storage.packed(module, n) for n in ("gate_up_proj", "down_proj"))
            )
            assert all(p.dtype == torch.bfloat16 for n, p in module.named_parameters(recurse=False))  # biases
    kept = {n.rpartition(".")[2] for n, m in model.named_modules() if type(m) is nn.Linear}
    assert kept == {"lm_head"} | ({"shared_expert_gate"} if "shared" in name else set())
    routers = [m for n, m in model.named_modules() if type(m).__name__.endswith("Router")]
    assert len(routers) == 2 and all(r.weight.dtype == torch.bfloat16 for r in routers)
    assert sum(isinstance(m, Linear4bit) for m in model.modules()) == (14 if "shared" in name else 8)
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".experts.parametrizations" in n)


def test_experts_that_will_be_sharded_stay_as_they_are(tmp_path):
    folder = save(MIXTURES["mixtral"], tmp_path)
    args = ModelConfig(load_in_4bit=True)
    for is_sharded in (True, False):
        given = pretrained.quantisation(args, torch.float32, is_sharded=is_sharded)
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=given)
        assert any(storage.in_4_bits(module) for module in model.modules()) is not is_sharded


def test_experts_with_rows_of_broken_blocks_stay_as_they_are(tmp_path):
    config = Qwen3MoeConfig(**SIZES, moe_intermediate_size=48, num_experts=4, head_dim=16)
    model = load(save(config, tmp_path))
    assert not any(storage.in_4_bits(module) for module in model.modules())
    with torch.no_grad():
        assert model(torch.tensor([[5, 6, 7]])).logits.isfinite().all()


def test_memory_of_loading_stays_near_that_of_4_bits(tmp_path):
    sizes = SIZES | {"num_hidden_layers": 6, "vocab_size": 32}
    folder = save(Qwen3MoeConfig(**sizes, moe_intermediate_size=128, num_experts=16, head_dim=16), tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    largest = max(2 * p.numel() for p in plain.parameters())
    whole = sum(2 * p.numel() for p in plain.parameters())
    del plain
    live = Real()
    with live:
        model = load(folder, dtype="bfloat16")
    # A third of the 16-bit size, and one layer's largest weight: its parts, stacked parts and their concatenation.
    assert live.peak < whole / 3 + 4 * largest < 0.8 * whole
    assert model.get_memory_footprint() < 0.35 * whole
