"""A base that is stored quantised is trained as the same base quantised on loading, or refused before its weights are read."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GptOssConfig, GptOssForCausalLM

from tests.conftest import pairs
from tests.report.test_card import executed
from tests.trainers.helpers import lora
from trl_ext.build import pretrained, quantised_base
from trl_ext.cli import main
from trl_ext.model_files.quantised import Stored
from trl_ext.recipe import load
from trl_ext.report import card
from trl_ext.runs.load import open_model
from trl_ext.support.errors import UserError

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}


@pytest.fixture(scope="module")
def original(tiny_model, tmp_path_factory) -> Path:
    """A base in bfloat16, as published."""
    folder = tmp_path_factory.mktemp("original")
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(original, tmp_path_factory) -> Path:
    """The same base stored in 4 bits, as for a GPU: it records bfloat16 for its weights and its products."""
    folder = tmp_path_factory.mktemp("checkpoint")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.bfloat16, quantization_config=settings)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(original).save_pretrained(folder)
    return folder


def run(path: Path, model: Path, **settings) -> Path:
    Dataset.from_list(pairs(16)).to_json(path.with_name("pairs.jsonl"))
    settings = {
        "model_name_or_path": str(model), "dataset_name": str(path.with_name("pairs.jsonl")), "use_peft": True, "lora_r": 4,
        "lora_target_modules": ["all-linear"], "max_steps": 4, "learning_rate": 0.01, "logging_steps": 1,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
    } | settings  # fmt: skip
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
    assert main(["run", str(path), "--output_dir", str(path.with_suffix(""))]) == 0
    return path.with_suffix("")


def metrics(home: Path) -> list[dict]:
    lines = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    kept = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")
    return [{key: line[key] for key in kept if key in line} for line in lines]


@pytest.fixture(scope="module")
def of_both(original, checkpoint, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return run(folder / "loaded.yaml", original, **NF4), run(folder / "stored.yaml", checkpoint)


def test_the_adapter_is_that_of_the_base_quantised_on_loading(of_both):
    on_loading, stored = (load_file(home / "adapter_model.safetensors") for home in of_both)
    assert on_loading.keys() == stored.keys()
    for name, weight in on_loading.items():
        assert torch.equal(weight, stored[name]), name
    moved = [weight for name, weight in stored.items() if "lora_B" in name]
    assert moved and all(weight.abs().max() > 0 for weight in moved)


def test_so_is_every_step(of_both):
    on_loading, stored = map(metrics, of_both)
    assert on_loading == stored
    first = next(line for line in stored if "loss" in line)
    assert first["loss"] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-6)  # policy equals reference
    assert first["rewards/chosen"] == first["rewards/rejected"] == 0


def test_a_finished_run_is_loaded_as_it_was_trained(of_both):
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        on_loading, stored = (open_model(home).model(input_ids=ids).logits for home in of_both)
    assert torch.equal(on_loading, stored)


def test_the_card_loads_the_checkpoint_as_it_is(of_both):
    on_loading, stored = ((home / "README.md").read_text() for home in of_both)
    assert "BitsAndBytesConfig" in on_loading and "BitsAndBytesConfig" not in stored
    assert "4 bits (nf4)" in on_loading and "4 bits (nf4)" in stored


def test_an_adapter_is_continued_on_it(of_both, tmp_path):
    on_loading, stored = (
        run(tmp_path / f"{name}.yaml", home, **more)
        for name, home, more in (("a", of_both[0], NF4), ("b", of_both[1], {}))
    )
    one, other = (load_file(home / "adapter_model.safetensors") for home in (on_loading, stored))
    assert all(torch.equal(one[name], other[name]) for name in one)


def changed(folder: Path, settings: dict, change) -> dict[str, torch.Tensor]:
    """Store some weights of a model otherwise: `change` takes a name and a weight, and returns tensors by the end of their
    names and the values that they stand for, or `None`. Returns these values by name."""
    stored, values = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        found = change(name, weight)
        if found is None:
            stored[name] = weight
            continue
        stored |= {f"{name}{end}": tensor.contiguous() for end, tensor in found[0].items()}
        values[name] = found[1]
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return values


def loads(folder: Path, values: dict[str, torch.Tensor]) -> bool:
    """Whether the checkpoint becomes a float32 model with these values."""
    model = pretrained.load(
        str(folder), dtype="float32", quantization_config=quantised_base.for_loading(quantised_base.of(str(folder)))
    )
    weights = model.state_dict()
    assert values and all(torch.equal(weights[name], value) for name, value in values.items())
    return not hasattr(model.config, "quantization_config") and {p.dtype for p in model.parameters()} == {
        torch.float32
    }


def stored_in_fp8(original: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Store the linear layers of a base in FP8. Returns the values that they stand for."""
    shutil.copytree(original, folder, dirs_exist_ok=True)

    def in_fp8(name, weight):
        if "layers" not in name or "proj" not in name:
            return None
        scale = weight.float().abs().max().reshape(1, 1) / 448  # one square of 128 x 128
        numbers = (weight.float() / scale).to(torch.float8_e4m3fn)
        return {"": numbers, "_scale_inv": scale}, numbers.float() * scale

    return changed(folder, {"quant_method": "fp8", "weight_block_size": [128, 128]}, in_fp8)


def test_fp8_becomes_the_numbers_times_their_scales(original, tmp_path):
    assert loads(tmp_path, stored_in_fp8(original, tmp_path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_card_of_an_adapter_dequantises_its_base_as_the_run_did(dtype, original, tmp_path):
    base = str(tmp_path / "base")
    stored_in_fp8(original, tmp_path / "base")
    settings = quantised_base.for_loading(quantised_base.of(base))
    trained = get_peft_model(pretrained.load(base, dtype=dtype, quantization_config=settings), lora())
    trained.save_pretrained(tmp_path / "run")
    AutoTokenizer.from_pretrained(original).save_pretrained(tmp_path / "run")
    text = card._usage(
        SimpleNamespace(model=trained, args=SimpleNamespace(model_init_kwargs=None, bf16=False, fp16=False)), base
    )
    assert "FineGrainedFP8Config(dequantize=True)" in text
    loaded = executed(text, tmp_path / "run")["model"]
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, trained(input_ids=ids).logits)
    assert {p.dtype for p in loaded.get_base_model().parameters()} >= {dtype}


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""The values of 4 bits in the microscaling formats (OCP MX specification 1.0, table 5)."""


def test_mxfp4_becomes_the_numbers_times_powers_of_two(tmp_path):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 32,
        "num_local_experts": 4,
        "num_hidden_layers": 1,
        "head_dim": 32,
    }
    config = GptOssConfig(vocab_size=100, num_attention_heads=2, num_key_value_heads=1, num_experts_per_tok=2, **sizes)
    GptOssForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)

    def in_mxfp4(name, weight):
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            return None
        experts, inputs, outputs = weight.shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        scales = torch.randint(118, 124, (experts, outputs, inputs // 32), dtype=torch.uint8)
        numbers = torch.stack([E2M1[(blocks & 15).long()], E2M1[(blocks >> 4).long()]], dim=-1).flatten(3)
        values = numbers * 2.0 ** (scales.float()[..., None] - 127)
        return {"_blocks": blocks, "_scales": scales}, values.flatten(2).transpose(1, 2)

    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    assert loads(tmp_path, changed(tmp_path, settings, in_mxfp4))


@pytest.mark.parametrize(
    ("stored", "settings", "sentence"),
    [
        (Stored("org/base", "fp8", {}), {"use_peft": False}, "would be loaded a second time in another way"),
        (Stored("org/base", "awq", {}), {"use_peft": False}, "stay frozen, so nothing would be trained"),
        (Stored("org/base", "bitsandbytes", NF4, has_experts=True), {}, "training on such experts is not tested"),
        (
            Stored("org/base", "fp8", {}),
            {"trainer": "grpo", "reward_funcs": ["think_format_reward"], "use_vllm": True},
            "weights that are not quantised: remove `use_vllm`",
        ),
    ],
)
def test_a_base_on_the_hub_is_refused_by_the_same_rules(stored, settings, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(quantised_base, "of", lambda base, revision: stored)
    path = tmp_path / "r.yaml"
    given = {"model_name_or_path": "org/base", "dataset_name": "embedded", "use_peft": True} | settings
    path.write_text(json.dumps(given))
    with pytest.raises(UserError, match=sentence):
        quantised_base.require(load(path), "org/base", None)
