"""Switch the adapters of a PEFT model by the flags of its layers, with the results of PEFT's own methods.

PEFT's `disable_adapter` and `set_adapter` also collect the status of every adapter weight and walk through all modules, which
takes a tenth of a second with 32 layers. Here only the layers with an adapter are visited. PEFT's own methods are called for
models and layers that switch in a way of their own, such as prompt tuning and X-LoRA.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, TrainableTokensWrapper, _set_adapter
from torch import nn

from trl_ext.reference.modules import modules_of

LAYERS = (BaseTunerLayer, AuxiliaryTrainingWrapper)
# PEFT's methods that set flags, of a layer and of its weights, and those that pass a call on to every layer.
OF_LAYERS = {
    method: {getattr(cls, method) for cls in (*LAYERS, ModulesToSaveWrapper, TrainableTokensWrapper)}
    for method in ("enable_adapters", "set_adapter")
}
OF_TUNERS = ("enable_adapter_layers", "disable_adapter_layers", "_enable_adapter_layers", "set_adapter")


@contextmanager
def adapter_off(model: PeftModel) -> Iterator[None]:
    """Context in which `model` computes without adapters, as in PEFT's `disable_adapter`. For passes without gradients.

    Which parameters require gradients is the same afterwards as before.
    """
    layers = _layers(model)
    # PEFT warns that trained biases of the base keep their effect.
    if layers is None or any(
        getattr(model.peft_config[name], "bias", "none") != "none" for name in model.active_adapters
    ):
        with _trainable_restored([model]), model.disable_adapter():
            yield
        return
    with _restored(layers, "_disable_adapters"), _restored([model], "_adapters_disabled"):
        for layer in layers:
            layer._disable_adapters = True
        model._adapters_disabled = True
        yield


@contextmanager
def adapter(model: PeftModel, name: str) -> Iterator[None]:
    """Context in which `model` computes with the adapter `name`, as after PEFT's `set_adapter`. For passes without gradients.

    Which parameters require gradients is the same afterwards as before.
    """
    layers = _layers(model)
    if layers is None or _any_merged(layers):
        before = model.active_adapter
        with _trainable_restored([model]):
            model.set_adapter(name)
            try:
                yield
            finally:
                model.set_adapter(before)
        return
    tuner = model.base_model
    wrappers = [layer for layer in layers if isinstance(layer, AuxiliaryTrainingWrapper)]
    flags = _restored(layers, "_active_adapter"), _restored([tuner, model], "active_adapter")
    with flags[0], flags[1], _trainable_restored(wrappers):
        for wrapper in wrappers:
            _set_adapter(wrapper, name)
        for layer in layers:
            if isinstance(layer, tuner.tuner_layer_cls):
                layer._active_adapter = [name]
        tuner.active_adapter = model.active_adapter = name
        yield


def used(model: PeftModel, adapter_name: str | None) -> AbstractContextManager:
    """As TRL's `use_adapter`: context in which `model` computes with an adapter, or without any for `None`."""
    return adapter_off(model) if adapter_name is None else adapter(model, adapter_name)


def activate(model: PeftModel, name: str, *, is_trained: bool = True) -> None:
    """Do what PEFT's `set_adapter` does: `name` is the only adapter that computes and whose weights require gradients.

    Args:
        model: With an adapter of this name.
        name: Of the adapter.
        is_trained: Whether its weights require gradients.
    """
    layers = _layers(model)
    if layers is None or _any_merged(layers) or name not in model.peft_config:
        model.set_adapter(name, inference_mode=not is_trained)
        return
    tuner = model.base_model
    for layer in layers:
        if isinstance(layer, AuxiliaryTrainingWrapper):
            _set_adapter(layer, name, inference_mode=not is_trained)
        elif isinstance(layer, tuner.tuner_layer_cls):
            _set_adapter_of_layer(layer, name, is_trained)
    tuner.active_adapter = model.active_adapter = name


def _layers(model: PeftModel) -> list[nn.Module] | None:
    """The layers with an adapter; `None` if the model or one of them switches in a way of its own."""
    modules = modules_of(model)
    if "layers" not in modules.known:
        layers = [module for module in modules.every if isinstance(module, LAYERS)]
        is_usual = _passes_on(model) and all(map(_sets_flags, {type(layer) for layer in layers}))
        modules.known["layers"] = layers if is_usual else None
    return modules.known["layers"]


def _passes_on(model: PeftModel) -> bool:
    """Whether PEFT's methods on the model and its tuner do nothing but pass the call on to every layer."""
    cls, tuner = type(model), model.base_model
    if cls.disable_adapter is not PeftModel.disable_adapter or cls.set_adapter is not PeftModel.set_adapter:
        return False
    return isinstance(tuner, BaseTuner) and all(getattr(type(tuner), m) is getattr(BaseTuner, m) for m in OF_TUNERS)


def _sets_flags(cls: type) -> bool:
    """Whether PEFT's methods on layers of a class do nothing but set flags."""
    return all(getattr(cls, method) in known for method, known in OF_LAYERS.items())


def _set_adapter_of_layer(layer: BaseTunerLayer, name: str, is_trained: bool) -> None:
    """What `set_adapter` of a layer does, without asking every weight for its descendants."""
    if layer.frozen_peft_weight_names:
        layer.set_adapter(name, inference_mode=not is_trained)
        return
    for container in layer.adapter_layer_names:
        for key, part in getattr(layer, container).items():
            requires_grad = is_trained and key == name
            for weight in _weights(part):
                if weight.requires_grad != requires_grad and weight.is_leaf:
                    weight.requires_grad_(requires_grad)
    layer._active_adapter = [name]


def _weights(part: torch.Tensor | nn.Module) -> Iterable[torch.Tensor]:
    if isinstance(part, torch.Tensor):
        return [part]
    return (
        part.parameters() if part._modules else [weight for weight in part._parameters.values() if weight is not None]
    )


def _any_merged(layers: list[nn.Module]) -> bool:
    """Whether the weights of an adapter are merged into a layer. PEFT's `set_adapter` removes them."""
    return any(layer.merged_adapters for layer in layers if isinstance(layer, BaseTunerLayer))


@contextmanager
def _restored(owners: Iterable[nn.Module], attribute: str) -> Iterator[None]:
    before = [(owner, getattr(owner, attribute)) for owner in owners]  # of its class, before it is first set
    try:
        yield
    finally:
        for owner, value in before:
            vars(owner)[attribute] = value


@contextmanager
def _trainable_restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, is_trained in before:
            if parameter.requires_grad != is_trained:
                parameter.requires_grad_(is_trained)
