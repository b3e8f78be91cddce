"""Adapters that cannot be merged are refused before their base is loaded; vLLM is offered for adapters that it reads."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.export.helpers import SIZES, logits, save_adapter, save_base
from trl_ext.cli import main
from trl_ext.export import commands, mergeable, merging, source
from trl_ext.export.gguf import adapter as alone
from trl_ext.model_files import adapter
from trl_ext.support.errors import UserError

Q = {"target_modules": ["q_proj"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_base(LlamaConfig(**SIZES), tmp_path_factory.mktemp("mergeable") / "base", torch.float32)


def merged(folder: Path):
    found = source.find(folder)
    source.check_base(found)
    return merging.merge(found, torch.float32)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (Q | {"lora_bias": True}, "model.layers.0.self_attn.q_proj of the base has no bias to add them to. It cannot be merged."),
        (Q | {"alora_invocation_tokens": [5, 6]}, "is active only after its invocation tokens"),
        (Q | {"layer_replication": [(0, 2), (1, 2)]}, "It repeats layers of the base (`layer_replication`)"),
        (Q | {"init_lora_weights": "pissa_niter_4"}, "It was initialised by pissa_niter_4, which took a part out of the base"),
    ],
    ids=["bias", "aLoRA", "repeated layers", "random PiSSA"],
)  # fmt: skip
def test_what_no_weights_can_stand_for_is_refused(lora, said, base, tmp_path, capsys, monkeypatch):
    folder = save_adapter(base, tmp_path / "adapter", **lora)
    monkeypatch.setattr(merging, "merge", None)  # it would be called once the base is loaded
    assert main(["merge", str(folder), "--output", str(tmp_path / "merged")]) == 2
    assert said in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "merged").exists()


@pytest.mark.parametrize("init", ["pissa", "olora", "orthogonal"])
def test_initialisations_that_loading_repeats_are_merged(init, base, tmp_path):
    folder = save_adapter(base, tmp_path / "adapter", init_lora_weights=init)
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    torch.testing.assert_close(logits(merged(folder)), logits(beside), atol=1e-5, rtol=1e-5)


def test_random_pissa_is_another_model_each_time_it_is_loaded(base, tmp_path):
    """The reason for its refusal, by plain PEFT."""
    folder = save_adapter(base, tmp_path / "adapter", init_lora_weights="pissa_niter_1")
    first, second = (
        logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)) for _ in range(2)
    )
    assert (first - second).abs().max() > 0.1


def test_another_base_is_refused_before_it_is_loaded(base, tmp_path, monkeypatch):
    folder = save_adapter(base, tmp_path / "adapter", **Q)
    other = save_base(LlamaConfig(**SIZES | {"hidden_size": 64}), tmp_path / "other")
    monkeypatch.setattr(merging, "load_base", None)
    with pytest.raises(UserError, match=r"does not fit its base .*other: size mismatch"):
        source.check_base(source.find(folder, str(other)))


@pytest.mark.parametrize(
    ("lora", "serves"),
    [
        (Q, True),
        (Q | {"use_rslora": True, "init_lora_weights": "gaussian"}, True),
        ({"target_modules": r".*\.(q|v)_proj"}, True),
        (Q | {"r": 96}, True),
        (Q | {"use_dora": True}, False),
        (Q | {"modules_to_save": ["norm"]}, False),
        (Q | {"rank_pattern": {"q_proj": 8}}, False),
        (Q | {"alpha_pattern": {"q_proj": 3}}, False),
        (Q | {"bias": "all"}, False),
        (Q | {"trainable_token_indices": [5]}, False),
        (Q | {"init_lora_weights": "pissa"}, False),
        (Q | {"use_qalora": True, "qalora_group_size": 8}, False),
        ({"target_modules": ["q_proj", "lm_head"]}, False),
        ({"target_modules": ["q_proj", "embed_tokens"]}, False),
        ({"target_modules": r".*(q_proj|lm_head)"}, False),
        ({"target_modules": [], "target_parameters": ["q_proj.weight"]}, False),
    ],
    ids=lambda value: str(value)[:60],
)
def test_vllm_is_offered_for_plain_lora_alone(lora, serves, base, tmp_path):
    """Its reader knows A and B of linear layers, one rank and one scale (vllm/lora/peft_helper.py and lora_model.py)."""
    folder = save_adapter(base, tmp_path / "adapter", **lora)
    offered = commands.after(source.find(folder), tmp_path / "merged")
    assert ("vLLM, as adapter" in offered) is serves and "vLLM" in offered
    if lora.get("r") == 96:
        assert "--max-lora-rank 128 " in offered["vLLM, as adapter"]


def test_vllm_has_a_largest_rank(tmp_path):
    content = {"peft_type": "LORA", "r": 1024, "target_modules": ["q_proj"], "lora_alpha": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    given = SimpleNamespace(folder=tmp_path, adapter=content, base="org/base", rank=1024, is_classifier=False)
    assert mergeable.serves_in_vllm(tmp_path, content)
    assert "vLLM, as adapter" not in commands.after(given, tmp_path / "merged")


@pytest.mark.parametrize(
    ("modules", "outside"),
    [
        (["language_model.layers.0.mlp.up_proj"], None),
        (["layers.0.mlp.up_proj"], None),
        (["language_model.layers.0.mlp.up_proj", "vision_tower.layers.0.self_attn.q_proj"], "vision_tower"),
        (["text_model.layers.0.mlp.up_proj", "connector.modality_projection.proj"], "connector"),
    ],
)
def test_an_adapter_on_the_part_for_images_is_not_exported_alone(modules, outside, tmp_path):
    """llama.cpp's converter leaves those weights out and does not report it."""
    weights = {f"base_model.model.model.{name}.lora_A.weight": torch.zeros(1, 1) for name in modules}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    found = mergeable.beside_text(tmp_path)
    assert found is None if outside is None else outside in found
    if outside is not None:
        given = SimpleNamespace(folder=tmp_path, adapter=adapter.config(tmp_path))
        with pytest.raises(
            UserError, match=f"also on the model's part for images .*{outside}.* Leave out `--gguf_lora`"
        ):
            alone.write(given, tmp_path, "x", tmp_path / "convert_lora_to_gguf.py")
