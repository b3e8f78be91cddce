"""Counts of parameters, against the published numbers and against bitsandbytes and PEFT themselves."""

import pytest
import torch
from bitsandbytes.functional import quantize_4bit

from tests.planner.helpers import SHAPES, shallow
from trl_ext.experts import storage
from trl_ext.planner import counting, memory
from trl_ext.planner.models import MODELS
from trl_ext.planner.shape import four_bit_bytes
from trl_ext.support.errors import UserError

PARAMETERS = {
    "alignment-handbook/zephyr-7b-sft-full": 7_241_732_096,
    "allenai/Llama-3.1-Tulu-3-8B-SFT": 8_030_326_784,
    "allenai/OLMo-2-1124-7B-SFT": 7_298_617_344,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-3-12b-it": 12_187_325_040,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "ibm-granite/granite-3.1-3b-a800m-instruct": 3_298_793_472,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "mistralai/Ministral-3-8B-Instruct-2512-BF16": 8_918_026_240,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 46_702_792_704,
    "openai/gpt-oss-20b": 20_914_757_184,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
}
"""Published number of weights of each listed model, tied ones counted once."""

# Total, quantised and trained (rank 16, all linear layers) parameters, and GiB of weights.
KNOWN = {
    "Llama-3.1-8B": (8_030_261_248, 6_979_321_856, 41_943_040, 5.31),
    "Qwen3-8B": (8_190_735_360, 6_945_767_424, 43_646_976, 5.66),
    "Qwen3-14B": (14_768_307_200, 13_212_057_600, 64_225_280, 9.25),
    "Mistral-7B": (7_248_023_552, 6_979_321_856, 41_943_040, 3.85),
    "Gemma-3-12B": (11_766_034_176, 10_758_389_760, 65_470_464, 7.05),
}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_the_published_ones(name):
    assert counting.count(MODELS[name], 8).parameters == PARAMETERS[name]


def test_every_listed_model_has_a_published_count():
    assert set(MODELS) == set(PARAMETERS)


@pytest.mark.parametrize("name", SHAPES)
def test_counts_of_known_models(name):
    shape = counting.count(SHAPES[name], 16)
    size = sum(memory.weights(shape, memory.Storage()).values()) / memory.GIB
    assert (shape.parameters, shape.quantised, shape.adapter.parameters) == KNOWN[name][:3]
    assert round(size, 2) == KNOWN[name][3]


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], r".*\.(gate|up|down)_proj", None])
@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "google/gemma-2-9b-it"])
def test_rules_are_those_of_bitsandbytes_and_peft(name, targets):
    assert_as_built(shallow(MODELS[name], 2), targets)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("mistralai/Ministral-3-8B-Instruct-2512-BF16", "all-linear"),
        ("mistralai/Ministral-3-8B-Instruct-2512-BF16", r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"),
        ("google/gemma-3-12b-it", "all-linear"),
        ("Qwen/Qwen3-30B-A3B", "all-linear"),
        ("openai/gpt-oss-20b", "all-linear"),
        ("HuggingFaceTB/SmolLM3-3B", "all-linear"),
        ("allenai/OLMo-2-1124-7B-SFT", "all-linear"),
    ],
)
def test_towers_and_experts_are_counted_as_built(name, targets):
    assert_as_built(shallow(MODELS[name], 2), targets)


def assert_as_built(config: dict, targets) -> None:
    import bitsandbytes as bnb

    from trl_ext.planner import fake_model

    shape = counting.count(config, 16, targets)
    built = fake_model.build(config, memory.Storage(), 16, targets)
    linear = [m for m in built.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert shape.quantised == sum(m.in_features * m.out_features for m in linear)
    fused = [storage.packed(m, name).state.shape.numel() for m in built.modules() for name in storage.in_4_bits(m)]
    assert shape.fused == sum(fused) and bool(fused) is bool(shape.experts)
    assert shape.adapter.parameters == sum(p.numel() for p in built.parameters() if p.requires_grad)


# Billions of weights of the experts, and of those that a token uses, as published. gpt-oss counts the head, not the embedding.
MIXTURES = {
    "Qwen/Qwen3-30B-A3B": (29.0, 3.3),
    "openai/gpt-oss-20b": (19.1, 3.6),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": (45.1, 12.9),
    "ibm-granite/granite-3.1-3b-a800m-instruct": (3.02, 0.88),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_are_stored_in_4_bits(name):
    shape = counting.count(MODELS[name], 16)
    experts, active = MIXTURES[name]
    assert shape.fused == shape.experts == pytest.approx(1e9 * experts, rel=0.003)
    embedding = 0 if "gpt-oss" in name else shape.embedding
    assert shape.active + shape.head + embedding == pytest.approx(1e9 * active, rel=0.015)
    in_4, in_8 = (memory.weights(shape, memory.Storage(bits=bits))["experts"] for bits in (4, 8))
    assert in_4 == pytest.approx((0.5 + 1 / 64 + 4 / 64 / 256) * shape.experts, rel=1e-4) and in_8 == 2 * shape.experts


@pytest.mark.parametrize("name", MIXTURES)
def test_all_linear_is_attention_alone(name):
    shape = counting.count(shallow(MODELS[name], 1), 16)
    q, kv, h = shape.query, shape.key_value, shape.hidden
    assert shape.adapter.parameters == 16 * (2 * (h + q) + 2 * (h + kv)) and shape.adapter.layer_linears == 4


def test_a_lora_on_experts_is_counted():
    config = shallow(MODELS["Qwen/Qwen3-30B-A3B"], 1)
    attention = counting.count(config, 16).adapter
    shape = counting.count(config, 16, parameters=["experts.down_proj"])
    assert shape.adapter.parameters - attention.parameters == 128 * 16 * (768 + 2048)
    assert (shape.adapter.expert_inputs, shape.adapter.expert_products) == (0, 1)


def test_heads_and_towers_have_their_own_counts():
    tied, untied = counting.count(MODELS["Qwen/Qwen3-4B"], 16), counting.count(MODELS["Qwen/Qwen3-8B"], 16)
    assert tied.head == 0 and untied.head == untied.embedding == 151_936 * 4096
    vision = counting.count(MODELS["google/gemma-3-12b-it"], 16).vision
    assert vision == PARAMETERS["google/gemma-3-12b-it"] - KNOWN["Gemma-3-12B"][0]


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("sides", [(64, 64), (192, 512), (1024, 96)])
def test_four_bit_bytes_are_those_bitsandbytes_makes(sides, double):
    packed, state = quantize_4bit(torch.randn(*sides), quant_type="nf4", compress_statistics=double)
    tensors = [packed, state.absmax, state.code]
    if double:
        tensors += [state.offset, state.state2.absmax, state.state2.code]
    assert four_bit_bytes(sides[0] * sides[1], double) == sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "model_type None"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"model_type": "no-such-model"}, "no-such-model"),
        ({"model_type": "llama", "hidden_size": "wide"}, "cannot be built"),
        ({"model_type": "llama", "num_attention_heads": 0}, "cannot be built"),
        ({"model_type": "llama", "num_hidden_layers": 0}, "no decoder layers"),
        ({"model_type": "mamba"}, "num_attention_heads"),
        ({"model_type": "t5"}, "cannot be built"),
    ],
)
def test_a_model_that_cannot_be_counted_is_one_sentence(config, said):
    with pytest.raises(UserError, match=said):
        counting.count(config, 8)


def test_a_family_without_default_targets():
    with pytest.raises(UserError, match="no default LoRA targets for olmo2"):
        counting.count(shallow(MODELS["allenai/OLMo-2-1124-7B-SFT"], 1), 8, None)


@pytest.mark.parametrize(("targets", "said"), [(["qproj"], "all-linear"), ("(", "not a valid regular expression")])
def test_targets_that_name_nothing(targets, said):
    with pytest.raises(UserError, match=said):
        counting.count(shallow(MODELS["meta-llama/Llama-3.1-8B"], 1), 8, targets)
