"""Switching by flags computes what PEFT's own methods compute, for every kind of layer with an adapter."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from tests.trainers.adapter_cases import CASES, lora
from tests.trainers.helpers import nf4
from trl_ext.reference import switching
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.reference.modules import modules_of

IDS = torch.tensor([[2, 5, 7, 9, 6, 11, 3, 8]])
BY_FLAGS = [
    "LoRA",
    "LoRA with dropout",
    "LoRA on embeddings",
    "LoRA on `target_parameters`",
    "LoRA with `lora_bias`",
    "LoRA with `modules_to_save`",
    "LoRA with `modules_to_save`: embeddings",
    "LoRA with `modules_to_save`: lm_head",
    "LoRA with `trainable_token_indices`",
    "DoRA",
    "DoRA on embeddings",
    "KaSA",
    "MonteCLoRA",
    "AdaLoRA",
    "IA3",
    "LoHa",
    "OFT",
    "VeRA",
    "SHiRA",
    "trainable tokens",
]
BY_PEFT = ["LoRA that trains biases", "layer-norm tuning", "Uni-LoRA", "prompt tuning", "adaption prompt"]
ONE_ADAPTER = {"adaption prompt", "LoRA that trains biases", "AdaLoRA"}
"""PEFT allows no second adapter of these types."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning"),
]


class Convolutions(nn.Module):
    """Layers that PEFT wraps in other classes than those of a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Conv1d(3, 4, 3, padding=1), nn.Conv2d(1, 2, 3), nn.Linear(6, 5)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        numbers = torch.arange(18.0).view(1, 3, 6).sin() * input_ids.sum().cos()
        return self.two(self.out(self.one(numbers))[:, None])


def convolutions():
    return get_peft_model(Convolutions(), LoraConfig(r=2, target_modules=["one", "two", "out"]))


def of_case(title: str, tiny_model: str):
    (case,) = [case for case in CASES if case.title == title]
    return get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), case.make())


def on_4_bits(tiny_model: str):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=nf4(), dtype=torch.float32)
    return get_peft_model(model, lora(modules_to_save=["norm"]))


def made(title: str, tiny_model: str):
    """A model in training mode whose adapters all have an effect: `default`, and `other` where PEFT allows it."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        special = {"convolutions": convolutions, "4 bits": lambda: on_4_bits(tiny_model)}
        model = special.get(title, lambda: of_case(title, tiny_model))()
        if title not in ONE_ADAPTER:
            model.add_adapter("other", copy.deepcopy(model.peft_config["default"]))
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if weight.requires_grad or ".other" in name:
            weight.data += (0.1 * torch.randn(weight.shape, generator=generator)).to(weight.dtype)
    return model.train()


def output(model) -> torch.Tensor:
    with no_grad_eval(model):
        result = model(input_ids=IDS)
    return getattr(result, "logits", result).clone()


def state(model) -> dict:
    """Everything that switching may change."""
    of_layer, of_model = ("_disable_adapters", "_active_adapter"), ("active_adapter", "_adapters_disabled", "training")
    flags = {}
    for place, module in model.named_modules():
        names = [name for name in of_model if name in vars(module)]
        names += of_layer if isinstance(module, switching.LAYERS) else ()
        values = (
            (name, getattr(module, name)) for name in names
        )  # PEFT writes one name as itself or as a list of one
        flags |= {(place, name): [value] if isinstance(value, str) else copy.copy(value) for name, value in values}
    return flags | {name: parameter.requires_grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("title", [*BY_FLAGS, *BY_PEFT, "convolutions", "4 bits"])
def test_switching_is_that_of_peft(title, tiny_model):
    model = made(title, tiny_model)
    assert (switching._layers(model) is None) == (title in BY_PEFT and title != "LoRA that trains biases")
    before, policy = state(model), output(model)
    with model.disable_adapter():
        expected = output(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(before[name])
    with switching.adapter_off(model):
        assert torch.equal(output(model), expected) and not torch.equal(expected, policy)
    assert state(model) == before and torch.equal(output(model), policy)
    if title in ONE_ADAPTER:
        return
    for is_trained in (True, False):
        model.set_adapter("other", inference_mode=not is_trained)
        peft, expected = state(model), output(model)
        model.set_adapter("default")
        switching.activate(model, "other", is_trained=is_trained)
        assert state(model) == peft and torch.equal(output(model), expected)
        switching.activate(model, "default")
        assert state(model) == before
    with switching.adapter(model, "other"):
        assert torch.equal(output(model), expected) and not torch.equal(expected, policy)
    assert state(model) == before and torch.equal(output(model), policy)


@pytest.mark.parametrize("title", ["LoRA with `trainable_token_indices`", "layer-norm tuning"])
def test_an_error_inside_restores_everything(title, tiny_model):
    model = made(title, tiny_model)
    before = state(model)
    for context in (switching.adapter_off(model), switching.adapter(model, "other"), no_grad_eval(model)):
        with pytest.raises(ZeroDivisionError), context:
            assert state(model) != before
            _ = 1 / 0
        assert state(model) == before and torch.is_grad_enabled()


def test_a_gradient_flag_that_was_set_by_hand_is_kept(tiny_model):
    model = made("LoRA with `modules_to_save`", tiny_model)
    next(p for name, p in model.named_parameters() if "lora_A.default" in name).requires_grad_(False)
    before = state(model)
    for context in (switching.adapter_off(model), switching.adapter(model, "other")):
        with context:
            output(model)
        assert state(model) == before


def test_modules_that_are_added_replaced_or_frozen_are_noticed(tiny_model):
    model = made("DoRA", tiny_model)
    cached = modules_of(model)
    assert modules_of(model) is cached
    base = model.get_base_model()
    base.model.layers[0].mlp.add_module("late", nn.Dropout(0.5))
    base.model.layers[1].mlp.act_fn = nn.Sequential(nn.SiLU(), nn.Dropout(0.5))
    base.model.layers[1].self_attn.eval()  # frozen by the user
    model.add_adapter("third", copy.deepcopy(model.peft_config["default"]))
    before = state(model)
    with switching.adapter(model, "third"), no_grad_eval(model):
        assert not any(module.training for module in model.modules())
        layers = [module for module in model.modules() if "_disable_adapters" in vars(module)]
        assert layers and all(layer.active_adapter == ["third"] for layer in layers)
    assert state(model) == before


def test_dora_forgets_its_norms_when_training_continues(tiny_model):
    """PEFT keeps the norm of a weight in evaluation mode, and forgets it in `train`."""
    model = made("DoRA", tiny_model)
    output(model)
    caches = [module._dora_cache for module in model.modules() if hasattr(module, "_dora_cache")]
    assert caches and not any(caches)


def test_peft_does_not_collect_the_status_of_every_weight(tiny_model, monkeypatch):
    """That takes most of the time of its contexts."""
    model = made("LoRA", tiny_model)
    for name in ("get_model_status", "set_adapter"):
        monkeypatch.setattr(model, name, None)  # noticed if called; the class still has PEFT's
    for context in (switching.adapter_off(model), switching.adapter(model, "other")):
        with context:
            output(model)
