"""Checkpoints that are stored quantised are counted by their own sizes."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trl_ext.model_files import quantised
from trl_ext.model_files.weights import header
from trl_ext.planner import counting, memory, request, stored
from trl_ext.planner.memory import Storage
from trl_ext.recipe import load

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": False,
}  # fmt: skip
LINEAR = 3 * [(512, 512), (256, 512), (256, 512), (512, 512), (1024, 512), (1024, 512), (512, 1024)]
"""(outputs, inputs) of the linear layers of LLAMA."""
OTHERS = 2 * (2 * 1000 * 512 + (2 * 3 + 1) * 512)
"""Bytes of embeddings, head and norms in 16 bits."""


def size(settings: dict, config: dict = LLAMA) -> float:
    """Bytes of a checkpoint by the planner's arithmetic."""
    checkpoint = quantised.of_config("m", config | {"quantization_config": settings})
    scheme = stored.scheme(checkpoint)
    shape = counting.count(config, stored=checkpoint)
    return sum(memory.weights(shape, Storage(bits=scheme.bits, scheme=scheme)).values())


def awq(outputs: int, inputs: int) -> float:
    """qweight and qzeros pack 8 numbers of 4 bits into an int32; scales are float16; groups of 128 inputs."""
    return 4 * inputs * outputs / 8 + 4 * inputs / 128 * outputs / 8 + 2 * inputs / 128 * outputs


def gptq(outputs: int, inputs: int) -> float:
    """As AWQ, and the group of every input as an int32."""
    return awq(outputs, inputs) + 4 * inputs


def hqq(outputs: int, inputs: int) -> float:
    """Two numbers in a byte; a float16 scale and a float16 zero point for 64 of them."""
    return inputs * outputs / 2 + inputs * outputs / 64 * (2 + 2)


def fp8(outputs: int, inputs: int) -> float:
    """A byte each, and a float32 scale for every square of 128 × 128."""
    return inputs * outputs + 4 * (outputs / 128) * (inputs / 128)


def packed(outputs: int, inputs: int) -> float:
    """weight_packed has 8 numbers in an int32, weight_scale a bfloat16 for 128 of them."""
    return 4 * inputs * outputs / 8 + 2 * inputs / 128 * outputs


def per_channel(outputs: int, inputs: int) -> float:
    return inputs * outputs + 2 * outputs


def compressed(**weights) -> dict:
    groups = {"group_0": {"targets": ["Linear"], "weights": {"symmetric": True} | weights}}
    return {"quant_method": "compressed-tensors", "ignore": ["lm_head"], "config_groups": groups}


@pytest.mark.parametrize(
    ("settings", "layer"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, awq),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, gptq),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}}, hqq),
        ({"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}, fp8),
        (compressed(num_bits=4, strategy="group", group_size=128), packed),
        (compressed(num_bits=8, strategy="channel", type="float"), per_channel),
    ],
    ids=["awq", "gptq", "hqq", "fp8", "compressed-tensors int4", "compressed-tensors fp8"],
)
def test_a_layer_is_stored_in_the_tensors_of_its_format(settings, layer):
    assert size(settings) == pytest.approx(OTHERS + sum(layer(*shape) for shape in LINEAR), rel=1e-12)


def test_mxfp4_stores_experts():
    """Blocks of 32 numbers of 4 bits with one byte of scale; everything else has 16 bits."""
    config = {
        "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": 100,
    }  # fmt: skip
    checkpoint = quantised.of_config("m", config | {"quantization_config": {"quant_method": "mxfp4"}})
    shape = counting.count(config, stored=checkpoint)
    experts = 2 * 4 * (2 * 96 * 64 + 64 * 96)
    assert shape.experts == experts
    assert stored.scheme(checkpoint).expert_bytes(shape) == experts / 32 * (16 + 1)


@pytest.mark.parametrize("is_double", [False, True])
def test_bitsandbytes_against_a_file(is_double, tiny_model, tmp_path):
    """The file also has its header and a few numbers per layer: code books and JSON, 2 % of layers this small."""
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=is_double)
    AutoModelForCausalLM.from_pretrained(
        tiny_model, dtype=torch.bfloat16, quantization_config=settings
    ).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    bytes_of = {
        name: entry["data_offsets"][1] - entry["data_offsets"][0]
        for name, entry in header(tmp_path / "model.safetensors").tensors.items()
    }
    described = sum(
        n for name, n in bytes_of.items() if "quant_state.bitsandbytes" in name
    )  # JSON, which takes no GPU memory
    layers = sum(name.endswith("weight.absmax") for name in bytes_of)
    offset = 4 if is_double else 0  # of the nested scales, in the JSON of the file
    counted = size(
        config["quantization_config"], {key: value for key, value in config.items() if key != "quantization_config"}
    )
    assert counted == sum(bytes_of.values()) - described + offset * layers


def test_modules_that_a_checkpoint_keeps_are_counted_in_16_bits():
    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    everything, kept = size(nf4), size(nf4 | {"llm_int8_skip_modules": ["lm_head", "down_proj"]})
    in_4_bits = 512 * 1024 / 2 + 4 * 512 * 1024 / 64 + 64
    assert kept - everything == pytest.approx(3 * (2 * 512 * 1024 - in_4_bits))
    with_regex = compressed(num_bits=8, strategy="channel") | {"ignore": ["lm_head", "re:.*down_proj"]}
    assert size(with_regex) - size(compressed(num_bits=8, strategy="channel")) == 3 * (512 * 1024 - 2 * 512)


@pytest.fixture
def planned(tmp_path):
    def read(settings, card="", **values):
        (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"quantization_config": settings}))
        (tmp_path / "README.md").write_text(card)
        values = {"model_name_or_path": str(tmp_path), "dataset_name": "embedded", "use_peft": True} | values
        file = tmp_path / "r.yaml"
        file.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
        return request.read(load(file))

    return read


def test_a_plan_counts_what_is_trained_as_it_is_stored(planned):
    asked = planned({"quant_method": "awq", "bits": 4, "group_size": 128})
    assert memory.weights(asked.shape, asked.storage)["linear layers"] == pytest.approx(sum(awq(*s) for s in LINEAR))
    assert any("stored quantised (AWQ, 4 bits): its weights take 0.0" in note for note in asked.notes)


def test_a_plan_counts_what_is_dequantised_in_16_bits_and_says_so(planned):
    asked = planned({"quant_method": "fp8", "weight_block_size": [128, 128]}, "---\nbase_model: org/Model\n---\n")
    assert memory.weights(asked.shape, asked.storage)["linear layers"] == 2 * sum(n * m for n, m in LINEAR)
    assert any(
        "counted in 16 bits. With `load_in_4bit: true`, org/Model takes less memory." in note for note in asked.notes
    )


def test_a_plan_says_what_cannot_be_trained(planned):
    asked = planned({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}})
    assert memory.weights(asked.shape, asked.storage)["linear layers"] == pytest.approx(sum(hqq(*s) for s in LINEAR))
    assert any("It cannot be trained" in note for note in asked.notes)
