"""What is known of a checkpoint that is stored quantised from its config.json, compared with transformers' quantizers."""

import inspect
import json

import pytest
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer

from trl_ext.model_files import quantised
from trl_ext.model_files.quantised import METHODS, UNTESTED


def classes(kind: str) -> list[type]:
    names = ["bitsandbytes_4bit", "bitsandbytes_8bit"] if kind == quantised.BITSANDBYTES else [kind]
    return [AUTO_QUANTIZER_MAPPING[name] for name in names]


def test_every_method_of_transformers_is_known():
    known = {
        name
        for kind in METHODS
        for name in ([kind] if kind != "bitsandbytes" else ["bitsandbytes_4bit", "bitsandbytes_8bit"])
    }
    assert known == AUTO_QUANTIZER_MAPPING.keys()


@pytest.mark.parametrize("kind", METHODS)
def test_what_is_trained_is_what_transformers_trains(kind):
    """Methods that are dequantised are no longer quantised when `is_trainable` is asked."""
    method = METHODS[kind]
    for quantizer in classes(kind):
        body = (
            inspect.getsource(inspect.getattr_static(quantizer, "is_trainable").fget)
            if isinstance(inspect.getattr_static(quantizer, "is_trainable"), property)
            else inspect.getsource(quantizer.is_trainable)
        )
        never = "return False" in body and "return True" not in body
        if never:
            assert method.why_not or method.is_dequantised
        if not method.why_not and not method.is_dequantised:
            assert not never
        if method.why_not == UNTESTED:
            assert not never  # another reason would be the true one


@pytest.mark.parametrize("kind", [kind for kind in METHODS if METHODS[kind].is_dequantised])
def test_what_is_dequantised_has_an_operation_for_it(kind):
    (quantizer,) = classes(kind)
    before_5_21 = ("get_weight_conversions", "update_weight_conversions")
    names = ("get_load_operations",) if hasattr(quantizer, "get_load_operations") else before_5_21
    assert "dequantize" in "".join(inspect.getsource(getattr(quantizer, name)) for name in names)


def test_hqq_cannot_be_loaded():
    """Every weight of a linear layer is quantised on loading, of a checkpoint too, and there is no operation that does it."""
    (quantizer,) = classes("hqq")
    assert quantizer.get_quantize_ops is HfQuantizer.get_quantize_ops
    with pytest.raises(NotImplementedError):
        HfQuantizer.get_quantize_ops(
            type("Stand", (), {"quantization_config": type("C", (), {"quant_method": "hqq"})})()
        )


BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(
    ("settings", "kind", "bits", "title"),
    [
        (BNB, "bitsandbytes", 4, "bitsandbytes, 4 bits"),
        ({"load_in_8bit": True, "load_in_4bit": False}, "bitsandbytes", 8, "bitsandbytes, 8 bits"),
        ({"quant_method": "awq", "bits": 4}, "awq", 4, "AWQ, 4 bits"),
        ({"quant_method": "gptq", "bits": 8}, "gptq", 8, "GPTQ, 8 bits"),
        ({"quant_method": "fp8"}, "fp8", 8, "FP8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors", None, "compressed-tensors"),
        ({"quant_method": "of_tomorrow"}, "of_tomorrow", None, "of_tomorrow"),
    ],
)
@pytest.mark.parametrize("is_inside", [False, True], ids=["model", "text model of a model with images"])
def test_how_it_is_stored(settings, kind, bits, title, is_inside):
    config = {"text_config": {"quantization_config": settings}} if is_inside else {"quantization_config": settings}
    stored = quantised.of_config("a/b", config)
    assert (stored.kind, stored.bits, stored.title) == (kind, bits, title)
    assert stored.is_bnb_4bit == (settings is BNB)


@pytest.mark.parametrize(
    "config", [{}, {"quantization_config": None}, {"quantization_config": {}}, {"text_config": None}]
)
def test_others_are_not_quantised(config):
    assert quantised.of_config("a/b", config) is None


@pytest.mark.parametrize(
    ("config", "card", "original"),
    [
        ({}, "---\nbase_model: org/Model-8B\n---\n# text", "org/Model-8B"),
        ({}, "---\nbase_model:\n- org/Model-8B\n- other/x\n---\n", "org/Model-8B"),
        ({"_name_or_path": "org/Model-8B"}, None, "org/Model-8B"),
        ({"base_model": "org/Model-8B"}, "---\nlicense: mit\n---\n", "org/Model-8B"),
        ({"_name_or_path": "/home/somebody/checkpoint"}, None, None),
        ({"_name_or_path": "Model-8B-AWQ"}, "no metadata", None),
        ({}, "---\n: [damaged\n---\n", None),
        ({}, "---\nbase_model: [1]\n---\n", None),
        ({}, None, None),
    ],
)
def test_the_original_is_named_where_configuration_or_card_say_so(config, card, original, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert quantised.original_of(str(tmp_path), config) == original


def test_a_checkpoint_is_not_its_own_original(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    assert quantised.original_of(str(tmp_path), {"_name_or_path": str(tmp_path)}) is None
    assert quantised.original_of("org/m", {"_name_or_path": "org/m"}) is None
    assert quantised.original_of(str(tmp_path), {"_name_or_path": str(other)}) == str(other)
