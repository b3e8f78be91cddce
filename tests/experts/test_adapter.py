"""A LoRA on experts in 4 bits is PEFT's: the same names, the same file, the same sum."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.experts.helpers import EXPERTS, MIXTURES, adapt, ids, load, save, twin
from trl_ext.experts import adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(MIXTURES["qwen 3"], tmp_path_factory.mktemp("mixture"))


@pytest.mark.parametrize(
    "lora",
    [
        {"target_parameters": EXPERTS},
        {"target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"]},  # which PEFT maps to the fused weights
        {"target_parameters": EXPERTS, "r": 3},  # rows that are not aligned
        {"target_parameters": ["model.layers.1.mlp.experts.down_proj"]},
    ],
    ids=str,
)
def test_the_file_of_an_adapter_is_that_of_the_unquantised_mixture(folder, lora, tmp_path):
    quantised = load(folder)
    plain = twin(quantised, folder)
    elsewhere = twin(quantised, folder)
    for model, name in ((adapt(quantised, **lora), "quantised"), (adapt(plain, **lora), "plain")):
        model.save_pretrained(tmp_path / name)
    found, expected = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("quantised", "plain"))
    assert found.keys() == expected.keys() and any(".experts." in name for name in found)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    fresh = load(folder)
    again = PeftModel.from_pretrained(fresh, tmp_path / "plain")
    elsewhere = PeftModel.from_pretrained(elsewhere, tmp_path / "quantised")
    with torch.no_grad():
        wanted = elsewhere(ids()).logits
        assert (again(ids()).logits - wanted).abs().max() < 2e-5 * wanted.abs().max()
        assert torch.equal(again(ids()).logits, again(ids()).logits)  # nothing is left behind by a pass


def test_two_adapters(folder, tmp_path):
    models = []
    quantised = load(folder)
    plain = twin(quantised, folder)
    adapt(twin(quantised, folder), target_parameters=EXPERTS, r=8).save_pretrained(tmp_path)
    for base in (quantised, plain):
        model = adapt(base, target_parameters=EXPERTS)
        model.load_adapter(str(tmp_path), "second")
        models.append(model)
    with torch.no_grad():
        for name in ("default", "second"):
            for model in models:
                model.set_adapter(name)
            found, wanted = (model(ids()).logits for model in models)
            assert (found - wanted).abs().max() < 2e-5 * wanted.abs().max()


def test_the_factors_are_those_of_peft(folder):
    model = adapt(load(folder), target_parameters=EXPERTS)
    wrappers = [module for module in model.modules() if isinstance(module, adapter.ParamWrapper)]
    assert len(wrappers) == 4
    for wrapper in wrappers:
        left, right, scaling = adapter.factors_of(wrapper, "default")
        expected = wrapper.get_delta_weight("default")
        assert torch.allclose(scaling * left @ right, expected, atol=1e-6)


def test_merging_into_4_bits_is_an_error(folder):
    """PEFT adds to a dequantised copy, which is discarded, and reports success."""
    model = adapt(load(folder), target_parameters=EXPERTS)
    with pytest.raises(ValueError, match="trl-ext merge"):
        model.merge_adapter()
