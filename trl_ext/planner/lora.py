"""Find the linear modules that get a LoRA and count its weights, by PEFT's rules but without importing PEFT."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

from trl_ext.planner.shape import Adapter, Readers
from trl_ext.support.errors import UserError

if TYPE_CHECKING:
    from torch import nn

ALL_LINEAR = "all-linear"
Targets = str | list[str] | set[str] | None
DOWN = ("down_proj", "fc2", "c_proj", "dense_4h_to_h", "w2", "wo")
"""Names of an MLP's last projection."""
OUT = ("o_", "out", "dense", "c_proj")
"""Prefixes of the names of an attention's last projection."""


def resolve(model: Any, targets: Targets) -> Targets:
    """`all-linear` of a mixture of experts as the names of its linear layers outside experts; other targets as they are."""
    from trl_ext.experts.targets import has_experts, outside_experts

    if isinstance(targets, str) and targets.lower() == ALL_LINEAR and has_experts(model):
        return outside_experts(model)
    return targets


def find_targets(linear: dict[str, nn.Module], targets: Targets, head: Any, model_type: str) -> list[str]:
    """Names of the modules that get a LoRA, by PEFT's rules."""
    if targets is None:
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

        targets = DEFAULTS.get(model_type)
        if targets is None:
            raise UserError(
                f"PEFT has no default LoRA targets for {model_type} models. Set `lora_target_modules: all-linear`."
            )
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        return [name for name, module in linear.items() if module is not head]
    try:
        matches = re.compile(targets).fullmatch if isinstance(targets, str) else None
    except re.error as error:
        raise UserError(
            f"`lora_target_modules` is {targets!r}, which is not a valid regular expression: {error}."
        ) from error
    if matches is None:
        names = list(targets)
        found = [n for n in linear if n in names or any(n.endswith(f".{target}") for target in names)]
    else:
        found = [name for name in linear if matches(name)]
    if not found:
        raise UserError(
            f"`lora_target_modules` is {targets!r}, which matches no linear layer of this model. Its linear layers are "
            f"{', '.join(sorted({name.rpartition('.')[2] for name in linear}))}. `all-linear` selects all but the LM head."
        )
    return found


def count_adapter(rank: int, carrying: dict[str, nn.Module], in_layer: list[str]) -> Adapter:
    """Count the adapter on the linear modules `carrying` one; `in_layer` are the names of those in one decoder layer."""

    def parameters(names: Any) -> int:
        return rank * sum(sum(carrying[name].weight.shape) for name in names)

    return Adapter(rank, parameters(carrying), len(in_layer), parameters(in_layer))


def count_adapter_with_experts(
    model: Any, rank: int, targets: Targets, parameters: list[str] | None, layer_name: str
) -> Adapter:
    """Count the adapter of a mixture of experts, which PEFT maps to the experts' 3-D tensors by rules of its own.

    Args:
        parameters: PEFT's `target_parameters`.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.layer import ParamWrapper

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft_model = get_peft_model(
            model, LoraConfig(r=rank, target_modules=targets, target_parameters=parameters, task_type="CAUSAL_LM")
        )
    sizes = {name: p.numel() for name, p in peft_model.named_parameters() if p.requires_grad}
    in_layer = {name: size for name, size in sizes.items() if f"{layer_name}." in name}
    layer = peft_model.get_base_model().get_submodule(layer_name)
    fused = {m.parameter_name for m in layer.modules() if isinstance(m, ParamWrapper) and m.num_experts > 1}
    products = fused & set(DOWN)
    linears = len(in_layer) // 2 - len(fused)
    return Adapter(
        rank, sum(sizes.values()), linears, sum(in_layer.values()), int(fused > products), int(bool(products))
    )


def count_readers(names: list[str]) -> Readers:
    """Count the linear modules of a layer by the tensor they read, judged by their names."""
    mlp = [leaf(name) in DOWN for name in names if is_mlp(name)]
    attention = [leaf(name).startswith(OUT) for name in names if not is_mlp(name)]
    return Readers(attention.count(False), min(attention.count(True), 1), mlp.count(False), min(mlp.count(True), 1))


def leaf(name: str) -> str:
    """The last part of a dotted name."""
    return name.rpartition(".")[2]


def is_mlp(name: str) -> bool:
    """Whether a module belongs to the MLP of its decoder layer, judged by its dotted name."""
    return leaf(name).startswith("fc") or any(part in name for part in ("mlp", "feed_forward", "ffn", "experts"))
