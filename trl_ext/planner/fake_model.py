"""Build the model of a run with fake weights: 4-bit layers, TRL's LM head and the adapter."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from trl_ext.experts import storage as stored
from trl_ext.planner import counting, lora
from trl_ext.planner.memory import Storage

METRICS = ("log_probs", "entropy", "mean_logits", "is_top1")
"""Metrics that TRL's preference trainers request from the LM head."""


def build(
    config: dict[str, Any],
    storage: Storage,
    rank: int | None,
    targets: lora.Targets,
    parameters: list[str] | None = None,
) -> Any:
    """Build the model on the meta device as a run does: 4-bit layers and experts, TRL's LM head, then the adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from trl.trainer.utils import add_fused_lm_head

    from trl_ext.experts import adapter, forward

    model, _ = counting.on_meta(config)
    model = model.to({2: torch.bfloat16, 4: torch.float32}[storage.weight])
    if storage.bits == 4:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_use_double_quant=storage.is_double,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        model = replace_with_bnb_linear(model, counting.not_converted(model), quantization)
        for name, weight in stored.weights(model).items():
            _store(model, name, weight, storage.is_double)
        forward.use(model)
        adapter.install()
        model.is_loaded_in_4bit = True  # PEFT reads this attribute
    add_fused_lm_head(model, outputs=METRICS)
    model.train()
    if rank is None:
        return model
    model.requires_grad_(False)
    with torch.device("meta"):
        asked = LoraConfig(
            r=rank, target_modules=lora.resolve(model, targets), target_parameters=parameters, task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, asked)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to({2: torch.bfloat16, 4: torch.float32}[storage.trained])
    return model


def allocate(model: Any) -> list[torch.Tensor]:
    """Replace the model's meta tensors by fake weights and add gradients; returns all these tensors."""
    import bitsandbytes as bnb
    from bitsandbytes.nn.parametrize import Bnb4bitParametrization

    new: dict[int, nn.Parameter] = {}  # by the tensor on the meta device, so that tied weights stay tied
    scales: list[torch.Tensor] = []
    for module in model.modules():
        is_quantised = isinstance(module, bnb.nn.Linear4bit)
        if isinstance(module, Bnb4bitParametrization):
            module.quant_state = _state(module.quant_state.shape, module.quant_state.nested, scales)
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if is_quantised and name == "weight":
                module._parameters[name] = _four_bit(module, scales)
                continue
            if id(parameter) not in new:
                fake = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), parameter.requires_grad)
                fake.grad = torch.empty_like(fake) if fake.requires_grad else None
                new[id(parameter)] = fake
            module._parameters[name] = new[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    parameters = list(model.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return [*parameters, *gradients, *model.buffers(), *scales]


def _four_bit(module: Any, scales: list[torch.Tensor]) -> nn.Parameter:
    """A 4-bit weight with its scales, as bitsandbytes stores it on a GPU. It is not a `Params4bit`, because a fake tensor
    cannot be another tensor subclass at the same time."""
    shape = torch.Size((module.out_features, module.in_features))
    state = _state(shape, module.weight.compress_statistics, scales)
    weight = nn.Parameter(_packed(shape), requires_grad=False)
    weight.quant_state = module.quant_state = state
    module.support_avx512bf16_for_cpu = False
    return weight


def _store(model: Any, name: str, weight: torch.Tensor, is_double: bool) -> None:
    """Store a weight of experts in 4 bits, on the meta device."""
    from bitsandbytes.nn.parametrize import Bnb4bitParametrization

    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    with torch.device("meta"):
        setattr(module, leaf, nn.Parameter(_packed(weight.shape), requires_grad=False))
        state = _state(weight.shape, is_double, [])
    register_parametrization(module, leaf, Bnb4bitParametrization(state), unsafe=True)


def _packed(shape: torch.Size) -> torch.Tensor:
    return torch.empty((shape.numel() + 1) // 2, 1, dtype=torch.uint8)


def _state(shape: torch.Size, is_double: bool, scales: list[torch.Tensor]) -> Any:
    """The `QuantState` of a weight, whose tensors are added to `scales`."""
    from bitsandbytes.functional import QuantState

    blocks = -(-shape.numel() // 64)
    nested = None
    if is_double:
        nested = QuantState(torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32)
    state = QuantState(
        torch.empty(blocks, dtype=torch.uint8 if is_double else torch.float32),
        shape=shape,
        code=torch.empty(16),
        blocksize=64,
        quant_type="nf4",
        dtype=torch.bfloat16,
        offset=torch.empty(()) if is_double else None,
        state2=nested,
    )
    scales += [state.absmax, state.code] + ([state.offset, nested.absmax, nested.code] if is_double else [])
    return state
