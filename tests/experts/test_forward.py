"""Experts in 4 bits compute what transformers and PEFT compute with the dequantised weights."""

import pytest
import torch
from bitsandbytes.functional import quantize_4bit

from tests.experts.helpers import EXPERTS, MIXTURES, adapt, gradients, ids, load, save, twin
from trl_ext.experts import forward, storage


@pytest.fixture(scope="module", params=MIXTURES)
def folder(request, tmp_path_factory):
    return save(MIXTURES[request.param], tmp_path_factory.mktemp("mixture"))


@pytest.mark.parametrize("lora", [{}, {"target_parameters": EXPERTS}], ids=["attention", "experts"])
def test_logits_and_gradients_are_those_of_the_dequantised_mixture(folder, lora):
    quantised = load(folder)
    assert quantised.config._experts_implementation == forward.NAME
    plain = twin(quantised, folder)
    quantised, plain = adapt(quantised, **lora), adapt(plain, **lora)
    with torch.no_grad():
        expected = plain(ids()).logits
        assert (quantised(ids()).logits - expected).abs().max() < 2e-5 * expected.abs().max()
        with quantised.disable_adapter(), plain.disable_adapter():
            base = plain(ids()).logits
            assert (base - expected).abs().max() > 1e-2
            assert (quantised(ids()).logits - base).abs().max() < 2e-5 * base.abs().max()
    for checkpointed in (False, True):
        if checkpointed:
            for model in (quantised, plain):
                model.enable_input_require_grads()
                model.gradient_checkpointing_enable({"use_reentrant": False})
                model.train()
        wanted, found = gradients(plain, ids()), gradients(quantised, ids())
        assert wanted.keys() == found.keys() and len(wanted) == (8 if not lora else 16)
        for name, gradient in wanted.items():
            assert (found[name] - gradient).abs().max() < 1e-4 * gradient.abs().max(), name


def test_no_dequantised_weight_is_kept_for_the_backward_pass(tmp_path):
    """PyTorch's product with a dequantised weight keeps it, which the same test on transformers' experts shows."""
    folder = save(MIXTURES["qwen 3"], tmp_path)
    quantised = load(folder)
    weights = {w.numel() for w in storage.weights(twin(quantised, folder)).values()}
    model = adapt(quantised, target_parameters=EXPERTS)

    def kept(run):
        sizes = []

        def note(tensor):
            if tensor.is_floating_point():
                sizes.append(tensor.untyped_storage().nbytes() // tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            run(input_ids=ids(1, 4), labels=ids(1, 4)).loss.backward()
        return weights & set(sizes)

    assert weights == {8 * 128 * 64, 8 * 64 * 64} and not kept(model)
    model.base_model.model.set_experts_implementation("grouped_mm")
    model.disable_adapter_layers()
    model.enable_input_require_grads()
    assert kept(model) == weights


def test_a_mixture_that_is_not_quantised_is_computed_by_transformers(tmp_path):
    folder = save(MIXTURES["mixtral"], tmp_path)
    plain = twin(load(folder), folder)
    with torch.no_grad():
        expected = plain(ids()).logits
        plain.set_experts_implementation(forward.NAME)
        assert torch.equal(plain(ids()).logits, expected)


def test_few_tokens_dequantise_the_experts_that_they_chose_alone(folder, monkeypatch):
    """As when a token is sampled for each row; the logits do not change by a bit."""
    model, counts = adapt(load(folder), target_parameters=EXPERTS), []
    experts = next(module.num_experts for module in model.modules() if storage.in_4_bits(module))
    dequantised = storage.Packed.dequantised
    monkeypatch.setattr(
        storage.Packed, "dequantised", lambda self: counts.append(self.state.shape[0]) or dequantised(self)
    )
    tokens = ids(1, 1)  # which chooses two experts in each layer
    with torch.no_grad():
        few = model(tokens).logits
        assert counts == [2] * 4 and experts > 2
        monkeypatch.setattr(forward, "_reads_few", lambda *given: False)
        assert torch.equal(model(tokens).logits, few)
        assert counts[4:] == [experts] * 4
    monkeypatch.undo()
    assert (model(tokens).logits.detach() - few).abs().max() == 0  # with a backward pass to come


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("is_double", [True, False])
@pytest.mark.parametrize("storage_dtype", [torch.uint8, torch.bfloat16])
def test_chosen_experts_have_the_values_of_all(kind, is_double, storage_dtype):
    weight = torch.randn(6, 128, 192, generator=torch.Generator().manual_seed(0))
    data, state = quantize_4bit(weight, quant_type=kind, compress_statistics=is_double, quant_storage=storage_dtype)
    whole = storage.Packed(data, state)
    chosen = torch.tensor([1, 2, 5])
    assert torch.equal(whole.of(chosen).dequantised(), whole.dequantised()[chosen])
