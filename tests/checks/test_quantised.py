"""Recipes on checkpoints that are stored quantised: each sentence is reported from config.json alone."""

import json

import pytest

from trl_ext.checks import packages
from trl_ext.recipe import load
from trl_ext.support.errors import UserError

NF4 = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
    "bnb_4bit_quant_storage": "uint8", "bnb_4bit_compute_dtype": "bfloat16",
}  # fmt: skip
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.fixture
def recipe(tmp_path):
    """Loads a recipe on a checkpoint; returns its notes."""

    def make(settings, to_train=True, card=None, config=None, **values):
        model = tmp_path / "checkpoint"
        model.mkdir(exist_ok=True)
        config = {"model_type": "llama", "quantization_config": settings} | (config or {})
        (model / "config.json").write_text(json.dumps(config))
        if card is not None:
            (model / "README.md").write_text(card)
        values = {"model_name_or_path": str(model), "dataset_name": "embedded", "use_peft": True} | values
        file = tmp_path / "r.yaml"
        file.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
        return load(file, to_train=to_train).notes

    return make


def said(recipe, *args, **values) -> str:
    with pytest.raises(UserError) as error:
        recipe(*args, **values)
    return str(error.value)


@pytest.mark.parametrize(
    "values", [{}, {"load_in_4bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}], ids=str
)
def test_a_checkpoint_in_4_bits_is_trained(recipe, values):
    assert not any("quantised" in note or "no effect" in note for note in recipe(NF4, **values))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"bnb_4bit_quant_type": "fp4"}, "`bnb_4bit_quant_type` (line 4) is fp4, but the weights of"),
        (
            {"use_bnb_nested_quant": False},
            "are stored with bnb_4bit_use_double_quant true, which loading cannot change",
        ),
        ({"bnb_4bit_quant_storage": "bfloat16"}, "stored with bnb_4bit_quant_storage uint8"),
        ({"load_in_8bit": True}, "is stored quantised already (bitsandbytes, 4 bits)"),
        ({"use_peft": False}, "stay frozen, so nothing would be trained: add `use_peft: true`"),
        ({"fsdp": "full_shard"}, "is stored quantised (bitsandbytes, 4 bits, as uint8)"),
    ],
)
def test_contradictions_of_a_checkpoint_in_4_bits(recipe, values, sentence):
    assert sentence in said(recipe, NF4, **values)


def test_its_compute_dtype_is_the_recipes(recipe):
    assert not any("bnb_4bit" in note for note in recipe(NF4, bnb_4bit_compute_dtype="float16"))


def test_it_is_sharded_if_it_is_stored_as_floats(recipe):
    assert "stored quantised" not in said(recipe, NF4 | {"bnb_4bit_quant_storage": "bfloat16"}, fsdp="full_shard")


@pytest.mark.parametrize("settings", [AWQ, FP8, NF4 | {"load_in_4bit": False, "load_in_8bit": True}], ids=str)
def test_what_is_stored_otherwise_is_not_quantised_again(recipe, settings):
    sentence = said(recipe, settings, to_train=False, load_in_4bit=True)
    assert (
        "is stored quantised already" in sentence and "Remove `load_in_4bit`, or name the 16-bit original" in sentence
    )


def test_missing_packages_are_named_with_their_command(recipe, monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda name: name != "gptqmodel")
    sentence = said(recipe, AWQ, card="---\nbase_model: org/Model-7B\n---\n")
    assert "Run `pip install gptqmodel`" in sentence and "16-bit original, org/Model-7B" in sentence
    monkeypatch.setattr(packages, "is_installed", lambda name: True)
    recipe(AWQ)


def test_what_cannot_be_trained_names_its_original(recipe):
    sentence = said(recipe, {"quant_method": "hqq"}, card="---\nbase_model: org/Model-7B\n---\n")
    assert (
        "the installed transformers cannot load HQQ checkpoints. Name its 16-bit original, org/Model-7B." in sentence
    )
    assert "Its config.json does not say which model that is" in said(recipe, {"quant_method": "vptq"}, card="")
    assert "transformers does not know this method" in said(recipe, {"quant_method": "of_tomorrow"}, card="")


def test_it_can_be_planned(recipe):
    recipe({"quant_method": "hqq", "quant_config": {}}, to_train=False)


def test_what_is_dequantised_is_said(recipe):
    notes = recipe(FP8)
    assert any("stored quantised (FP8). Its weights are dequantised when they are loaded" in note for note in notes)
    recipe(FP8, use_peft=False, loss="simpo")
    recipe(FP8, use_peft=False, precompute_ref_log_probs=True)


@pytest.mark.parametrize("loss", ["dpo", {"simpo": 1.0, "ipo": 0.5}, "kto"], ids=str)
def test_all_weights_of_what_is_dequantised_have_no_reference(recipe, loss):
    sentence = said(recipe, FP8, use_peft=False, loss=loss)
    assert "would be loaded a second time in another way: add `use_peft: true`" in sentence


@pytest.mark.parametrize(
    ("experts", "is_refused"),
    [
        ({"num_experts": 128}, True),
        ({"text_config": {"n_routed_experts": 64}}, True),
        ({"moe_num_experts": [64, 64]}, True),
        ({"num_local_experts": 1, "num_experts": None, "num_experts_per_tok": 2}, False),
    ],
    ids=str,
)
def test_a_mixture_in_4_bits_is_not_trained(recipe, experts, is_refused):
    if not is_refused:
        recipe(NF4, config=experts)
        return
    sentence = said(recipe, NF4, config=experts, card="---\nbase_model: org/Model-7B\n---\n")
    assert "a mixture of experts that is stored quantised (bitsandbytes, 4 bits)" in sentence
    assert "Name its 16-bit original, org/Model-7B. `load_in_4bit: true` quantises that" in sentence
    recipe(FP8, config=experts)


@pytest.mark.parametrize("settings", [NF4, FP8], ids=str)
def test_vllm_samples_from_no_quantised_base(recipe, settings, monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda name: True)
    more = {"trainer": "grpo", "reward_funcs": ["think_format_reward"], "dataset_name": "embedded"}
    recipe(settings, **more)
    sentence = said(recipe, settings, **more, use_vllm=True)
    assert (
        "`use_vllm` (line 6) is true" in sentence and "weights that are not quantised: remove `use_vllm`" in sentence
    )


def test_an_adapter_on_it_is_continued(recipe, tmp_path):
    base = {
        "base_model_name_or_path": str(tmp_path / "checkpoint"),
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
    }
    home = tmp_path / "adapter"
    home.mkdir()
    (home / "adapter_config.json").write_text(json.dumps(base))
    assert "stored quantised already" in said(
        recipe, AWQ, to_train=False, load_in_4bit=True, model_name_or_path=str(home)
    )
    (home / "adapter_config.json").write_text(json.dumps(base | {"peft_type": "OSF"}))
    assert "4-bit or 8-bit layers" in said(recipe, NF4, to_train=False, model_name_or_path=str(home), use_peft=False)
