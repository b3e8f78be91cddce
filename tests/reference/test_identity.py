"""The identity of a reference changes with everything that changes its values, and with nothing else."""

import copy

import bitsandbytes as bnb
import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from tests.conftest import pairs
from tests.trainers.helpers import arguments, lora, nf4, randomise_lora_b
from trl_ext.reference.identity import describe_reference, reference_identity
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer


def load(directory, quantisation=None, **options):
    return AutoModelForCausalLM.from_pretrained(directory, quantization_config=quantisation, **options)


def with_lora(model, seed=0, **changes):
    torch.manual_seed(seed)
    return get_peft_model(model, lora(**changes))


def bits(**changes) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(**{**nf4().to_dict(), **changes})


@pytest.fixture(scope="module")
def four_bits(tiny_model) -> str:
    return reference_identity(load(tiny_model, nf4()))


def test_it_is_a_name_for_a_folder_and_repeatable(tiny_model, four_bits):
    assert len(four_bits) == 32 and set(four_bits) <= set("0123456789abcdef")
    assert reference_identity(load(tiny_model, nf4())) == four_bits


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"r": 8, "lora_alpha": 1},
        {"seed": 1},
        {"target_modules": "all-linear", "use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1, 2]},
    ],
)
def test_the_adapter_does_not_matter(changes, tiny_model, four_bits):
    model = with_lora(load(tiny_model, nf4()), **changes)
    randomise_lora_b(model)
    assert reference_identity(model) == four_bits


def test_training_does_not_matter(tiny_model, tmp_path, four_bits):
    """Nor do loss, learning rate, seed or checkpointing; the trainer's own changes to the model included."""
    for number, changes in enumerate(
        ({"loss": "dpo"}, {"loss": "ipo", "learning_rate": 1.0, "seed": 9, "gradient_checkpointing": True})
    ):
        trainer = PairedPreferenceTrainer(
            model=tiny_model,
            args=PairedPreferenceConfig(**arguments(tmp_path / str(number), packing=False, max_steps=2, **changes)),
            train_dataset=Dataset.from_list(pairs(16)),
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
            quantization_config=nf4(),
            peft_config=lora(r=4 * (number + 1)),
        )
        before = reference_identity(trainer.model)
        trainer.train()
        assert before == reference_identity(trainer.model) == four_bits


def test_where_the_weights_came_from_does_not_matter(tiny_model, tmp_path, four_bits):
    load(tiny_model).save_pretrained(tmp_path / "copied")
    assert reference_identity(load(str(tmp_path / "copied"), nf4())) == four_bits


def test_every_part_of_the_weights_matters(tiny_model, four_bits):
    """One bit of: packed weights, their nested and outer scales, a norm, the embedding, the head."""
    model = with_lora(load(tiny_model, nf4()))
    layer = model.get_base_model().model.layers[1]
    weight = layer.mlp.gate_proj.base_layer.weight
    assert isinstance(weight, bnb.nn.Params4bit)
    state = weight.quant_state
    parts = [
        weight.data,
        state.absmax,
        state.state2.absmax,
        state.code,
        state.offset,
        layer.input_layernorm.weight.data,
        model.get_base_model().model.embed_tokens.weight.data,
        model.get_base_model().lm_head.weight.data,
    ]
    seen = {four_bits}
    for part in parts:
        raw = part.view(-1).view(torch.uint8) if part.dim() else part.reshape(1).view(torch.uint8)
        for position in {0, len(raw) // 2, len(raw) - 1}:
            raw[position] ^= 1
            seen.add(reference_identity(model))
            raw[position] ^= 1
    assert len(seen) >= 1 + 2 * len(parts)
    assert reference_identity(model) == four_bits


def test_quantisation_matters(tiny_model, four_bits):
    identities = [four_bits, reference_identity(load(tiny_model))]
    for changes in (
        {"bnb_4bit_quant_type": "fp4"},
        {"bnb_4bit_use_double_quant": False},
        {"bnb_4bit_compute_dtype": torch.bfloat16},
        {"llm_int8_skip_modules": ["lm_head", "gate_proj"]},
    ):
        identities.append(reference_identity(load(tiny_model, bits(**changes))))
    identities.append(reference_identity(load(tiny_model, BitsAndBytesConfig(load_in_8bit=True))))
    assert len(set(identities)) == 7


def test_dtypes_matter(tiny_model):
    model = load(tiny_model)
    identities = {reference_identity(model, dtype) for dtype in (None, torch.bfloat16, torch.float16)}
    identities.add(reference_identity(load(tiny_model, dtype=torch.bfloat16)))
    assert len(identities) == 4


@pytest.mark.parametrize(
    "setting",
    [
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rms_norm_eps": 1e-5},
        {"hidden_act": "gelu"},
    ],
)
def test_the_configuration_matters(setting, tiny_model):
    assert reference_identity(load(tiny_model, **setting)) != reference_identity(load(tiny_model))


def test_the_attention_implementation_matters(tiny_model):
    assert reference_identity(load(tiny_model, attn_implementation="eager")) != reference_identity(load(tiny_model))


@pytest.mark.parametrize("setting", [{"use_cache": False}, {"pad_token_id": 1, "eos_token_id": 4}])
def test_settings_of_generation_do_not_matter(setting, tiny_model):
    model = load(tiny_model)
    before = reference_identity(model)
    for name, value in setting.items():
        setattr(model.config, name, value)
    assert reference_identity(model) == before


def test_a_changed_base_is_another_reference(tiny_model):
    """Initialisations that take a part out of the base, and merging an adapter into it."""
    plain = reference_identity(load(tiny_model))
    assert reference_identity(with_lora(load(tiny_model), init_lora_weights="pissa")) != plain
    model = with_lora(load(tiny_model))
    randomise_lora_b(model)
    assert reference_identity(model) == plain
    assert reference_identity(model.merge_and_unload()) != plain


def test_the_frozen_copy_of_a_continued_adapter_is_part_of_the_reference(tiny_model):
    def continued(scale: float = 0.05, alpha: int = 8):
        model = with_lora(load(tiny_model), lora_alpha=alpha)
        randomise_lora_b(model, scale)
        model.add_adapter("ref", copy.deepcopy(model.peft_config["default"]))
        parameters = dict(model.named_parameters())
        for name, parameter in parameters.items():
            if ".ref." in name:
                parameter.data.copy_(parameters[name.replace(".ref.", ".default.")])
        return model

    model = continued()
    identity = reference_identity(model)
    others = [load(tiny_model), with_lora(load(tiny_model)), continued(scale=0.06), continued(alpha=16)]
    assert identity not in map(reference_identity, others)
    assert reference_identity(continued()) == identity
    for name, parameter in model.named_parameters():
        if ".default." in name:
            parameter.data += 1  # the policy moves on, its frozen copy does not
    assert reference_identity(model) == identity


def test_weights_that_are_not_in_memory(tiny_model):
    config = load(tiny_model).config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="not in memory"):
        reference_identity(model)


def test_in_words(tiny_model):
    name = tiny_model.rpartition("/")[2]
    assert describe_reference(load(tiny_model)) == f"{name}, float32"
    model = with_lora(load(tiny_model, nf4()))
    assert describe_reference(model, torch.bfloat16) == f"{name}, nf4 (double), autocast bfloat16"
    eight = load(tiny_model, BitsAndBytesConfig(load_in_8bit=True))
    assert describe_reference(eight).startswith(f"{name}, 8-bit")
