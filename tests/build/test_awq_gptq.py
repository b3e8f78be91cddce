"""Checkpoints of AWQ and GPTQ, packed here by the definitions of the formats, are trained as their dequantised weights are.

Skipped without GPT-QModel and Optimum, by which transformers loads them.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.build.test_quantised_base import metrics, run
from trl_ext import demo
from trl_ext.build import pretrained, quantised_base
from trl_ext.cli import main

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gptqmodel", "optimum"))), reason="needs `pip install gptqmodel optimum`"
)

GROUP = 32
"""Inputs that share a scale and a zero point."""
ORDER = {"gptq": range(8), "awq": (0, 2, 4, 6, 1, 3, 5, 7)}
"""Which of eight numbers lie in the lowest to the highest four bits of an integer."""
SETTINGS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "desc_act": False},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
}


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers (in, out), zero points and scales (in / GROUP, out) of a weight (out, in), and the values s·(q − z), (out, in)."""
    grouped = weight.T.reshape(-1, GROUP, len(weight))
    low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
    scales = ((high - low) / 15).half()
    zeros = (-low / scales.float()).round().clamp(1, 15)
    numbers = (grouped / scales.float()[:, None] + zeros[:, None]).round().clamp(0, 15)
    values = (numbers - zeros[:, None]) * scales.float()[:, None]
    values = values.half().float()  # as GPT-QModel rounds them
    return numbers.flatten(0, 1).long(), zeros.long(), scales, values.flatten(0, 1).T.contiguous()


def packed(numbers: torch.Tensor, dim: int, kind: str) -> torch.Tensor:
    """Eight numbers of a dimension in one 32-bit integer."""
    eights = numbers.movedim(dim, -1).unflatten(-1, (-1, 8))[..., list(ORDER[kind])]
    joined = (eights << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(joined >= 2**31, joined - 2**32, joined).int().movedim(-1, dim).contiguous()


@pytest.fixture(scope="module", params=SETTINGS)
def folders(request, tmp_path_factory) -> tuple[Path, Path]:
    """A checkpoint, and a model in float32 with its values."""
    stored, plain = (tmp_path_factory.mktemp(f"{request.param}-{name}") for name in ("stored", "plain"))
    tokenizer, kind = AutoTokenizer.from_pretrained(demo.MODEL), request.param
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    shutil.copytree(plain, stored, dirs_exist_ok=True)
    values = load_file(plain / "model.safetensors")
    tensors = dict(values)
    for name in [name for name in values if "_proj." in name]:
        numbers, zeros, scales, values[name] = quantised(tensors.pop(name))
        of = {"qweight": packed(numbers, 0 if kind == "gptq" else 1, kind), "scales": scales}
        of["qzeros"] = packed(zeros - int(kind == "gptq"), 1, kind)  # GPTQ stores one less
        if kind == "gptq":
            of["g_idx"] = (torch.arange(len(numbers)) // GROUP).int()
        tensors |= {name.replace("weight", part): tensor for part, tensor in of.items()}
    save_file(values, plain / "model.safetensors", metadata={"format": "pt"})
    save_file(tensors, stored / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps(content | {"quantization_config": SETTINGS[kind]}))
    return stored, plain


def test_logits_are_those_of_the_dequantised_weights(folders):
    stored, plain = folders
    how = quantised_base.for_loading(quantised_base.of(str(stored)))
    model = pretrained.load(str(stored), dtype="float32", quantization_config=how)
    ids = torch.arange(4, 40)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(plain)(input_ids=ids).logits
        allowed = 1e-4 if "gptq" in stored.name else 4e-3  # AWQ's kernel multiplies in 16 bits
        assert (model(input_ids=ids).logits - expected).abs().max() < allowed * expected.abs().max()


def test_a_run_is_that_on_the_dequantised_weights(folders, tmp_path, capsys):
    stored, plain = folders
    runs = [
        run(tmp_path / f"{name}.yaml", model, packing=packing)
        for name, model, packing in (("packed", stored, True), ("padded", stored, False), ("plain", plain, True))
    ]
    assert "rows: packed" in (runs[0] / "run.log").read_text()
    packed_rows, padded_rows, of_plain = ([line for line in metrics(home) if "loss" in line] for home in runs)
    assert of_plain[-1]["loss"] < of_plain[0]["loss"]
    is_awq, drawn = "awq" in stored.name, ("grad_norm",)
    for line, expected in zip(padded_rows, packed_rows, strict=True):
        assert line == pytest.approx(expected, rel=4e-3 if is_awq else 1e-4, abs=1e-3)
    # Loading GPTQ draws random numbers, so its LoRA starts from others; the first step does not depend on them but for the gradient.
    steps = zip(packed_rows, of_plain, strict=True) if is_awq else [(packed_rows[0], of_plain[0])]
    for line, expected in steps:
        kept = [name for name in expected if is_awq or name not in drawn]
        assert [line[name] for name in kept] == pytest.approx([expected[name] for name in kept], rel=2e-2, abs=5e-2)
    capsys.readouterr()
    assert main(["merge", str(runs[0]), "--output", str(tmp_path / "merged")]) == 2
    assert "is stored quantised" in (said := " ".join(capsys.readouterr().err.split())) and "--base" in said
