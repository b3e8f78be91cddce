"""Count a model's `Shape`: build it on the meta device, where weights take no memory, and count its parameters.

The rules by which bitsandbytes quantises layers and PEFT places a LoRA are repeated here, because importing the two takes
longer than everything else together. A test compares every count with the real libraries.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trl_ext.experts import storage
from trl_ext.model_files.quantised import Stored
from trl_ext.planner import lora
from trl_ext.planner import stored as stored_weights
from trl_ext.planner.shape import Shape
from trl_ext.support.errors import UserError
from trl_ext.support.messages import reason

if TYPE_CHECKING:
    from torch import nn


def count(
    config: dict[str, Any],
    rank: int | None = None,
    targets: lora.Targets = lora.ALL_LINEAR,
    parameters: list[str] | None = None,
    *,
    is_quantised: bool = True,
    is_fused: bool = True,
    stored: Stored | None = None,
) -> Shape:
    """Count a model.

    Args:
        config: The content of its config.json.
        rank: r of the LoRA; `None` if all weights are trained.
        targets: PEFT's `target_modules`: `all-linear`, a regular expression, or names.
        parameters: PEFT's `target_parameters`.
        is_quantised: Whether the linear layers will be quantised.
        is_fused: Whether LoRA layers, norms and MLPs are those of `trl_ext.fused`, or of PEFT and transformers.
        stored: How the checkpoint is stored, if it is stored quantised.

    Raises:
        UserError: transformers cannot build the model, or `targets` match no module.
    """
    model, text = on_meta(config)
    try:
        counted = _shape(model, text, rank, targets, parameters, is_fused, stored)
    except AttributeError as error:
        raise UserError(
            f"The planner does not support the architecture of this model ({config['model_type']}): {error}."
        ) from error
    return replace(counted, shares_inputs=is_quantised or is_fused or rank is None)


def _shape(
    model: Any,
    text: Any,
    rank: int | None,
    targets: lora.Targets,
    parameters: list[str] | None,
    is_fused: bool,
    stored: Stored | None,
) -> Shape:
    modules = dict(model.named_modules())
    head = model.get_output_embeddings()
    skipped = not_converted(model, stored)
    linear = {name: module for name, module in modules.items() if _is_linear(module)}
    targets = lora.resolve(model, targets)
    quantised = [module for name, module in linear.items() if _converts(name, skipped)]
    layers = decoder_layers(model, text)
    layer_name = next(name for name, module in modules.items() if module is layers[0])
    carrying = list(linear) if rank is None else lora.find_targets(linear, targets, head, text.model_type)
    in_layer = [name for name in carrying if name.startswith(f"{layer_name}.")]
    adapter = None if rank is None else lora.count_adapter(rank, {name: linear[name] for name in carrying}, in_layer)
    experts = _count(p for p in model.parameters() if p.ndim == 3)
    embedding = model.get_input_embeddings().weight
    is_tied = head is None or head.weight is embedding
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    per_token = _experts_per_token(text, layers[0])
    up, product = _mlp_widths(text, layers[0], per_token)
    norms = _norms(layers[0], heads, getattr(text, "num_key_value_heads", None) or heads, head_width)
    direct = [name for name, _ in layers[0].named_children() if "norm" in name or name.startswith("ln_")]
    from trl_ext.batching.proof import known_to_be_wrong
    from trl_ext.fused import swiglu

    counted = Shape(
        layers=len(layers),
        hidden=text.hidden_size,
        query=heads * head_width,
        key_value=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
        heads=heads,
        head_width=head_width,
        up=up,
        product=product,
        normed=sum(width for width, _ in norms),
        norms=sum(statistics for _, statistics in norms),
        is_pre_norm=not direct or not all(name.startswith("post_") for name in direct),
        is_post_norm="post_feedforward_layernorm" in direct,
        vocabulary=text.vocab_size,
        mask_kinds=len(set(getattr(text, "layer_types", None) or ["full_attention"])),
        parameters=_count(model.parameters()),
        linear=tuple(sorted(Counter(module.weight.numel() for module in quantised).items())),
        linear_width=sum(module.weight.shape[0] for module in quantised),
        linear_inputs=sum(module.weight.shape[1] for module in quantised),
        expert_weights=tuple(sorted(Counter(weight.numel() for weight in storage.weights(model).values()).items())),
        embedding=embedding.numel(),
        head=0 if is_tied else head.weight.numel(),
        experts=experts,
        vision=_vision(model, layer_name),
        adapter=adapter,
        readers=lora.count_readers(in_layer),
        shares_inputs=True,
        norm_offset=_norm_offset(layers[0]) if is_fused else None,
        is_mlp_fused=is_fused and any(swiglu.can_fuse(module) for module in layers[0].modules()),
        gate_copies=4 if any(_has_own_gate(module) for module in layers[0].modules()) else 1,
        is_eager=not model._supports_sdpa,
        score_bytes=_score_bytes(text, layers[0]),
        cannot_pack=known_to_be_wrong(model.config),
        experts_per_token=per_token,
        router_aux_loss_coef=getattr(text, "router_aux_loss_coef", 0.0)
        if hasattr(text, "output_router_logits")
        else 0.0,
        active=_active(layers, per_token),
    )
    if adapter is None or not (experts or parameters):
        return counted
    # Last, since PEFT changes the model.
    return replace(counted, adapter=lora.count_adapter_with_experts(model, rank, targets, parameters, layer_name))


def on_meta(config: dict[str, Any]) -> tuple[Any, Any]:
    """The model on the meta device, and its text configuration. Raises UserError if transformers cannot build it."""
    import torch
    import transformers
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise UserError(
            f"The model's config.json has model_type {kind!r}, which transformers {transformers.__version__} does not know. "
            "Such a model cannot be planned, nor can a model with custom code."
        )
    try:
        known = CONFIG_MAPPING[kind].from_dict({k: v for k, v in config.items() if k != "quantization_config"})
        architecture = getattr(transformers, (known.architectures or [""])[0], None)
        with torch.device("meta"):
            build = AutoModelForCausalLM.from_config if architecture is None else architecture._from_config
            model = build(known, dtype=torch.bfloat16)
        text = known.get_text_config()
        if not decoder_layers(model, text) or model.get_input_embeddings() is None:
            raise ValueError("it has no decoder layers")
    except Exception as error:  # transformers raises many kinds of errors for a wrong configuration
        raise UserError(f"The model cannot be built from its config.json ({kind}): {reason(error)}") from error
    return model, text


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _is_linear(module: nn.Module) -> bool:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return type(module) is nn.Linear or isinstance(module, Conv1D)


def not_converted(model: Any, stored: Stored | None = None) -> list[str]:
    """Modules that transformers keeps in 16 or 32 bits when it quantises this model, or that a checkpoint keeps so."""
    from transformers.quantizers.base import get_keys_to_not_convert

    if stored is None:
        return [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or []), *storage.routers(model)]
    usual = get_keys_to_not_convert(model) if stored_weights.adds_to_the_usual(stored) else []
    return [*usual, *(stored_weights.kept(stored) or []), *(model._keep_in_fp32_modules or [])]


def _converts(name: str, skipped: list[str]) -> bool:
    from transformers.quantizers.quantizers_utils import should_convert_module

    return should_convert_module(name, skipped)


def decoder_layers(model: Any, text: Any) -> Any:
    """The list of the language model's layers, without those of a vision tower."""
    from torch import nn
    from transformers.modeling_layers import GradientCheckpointingLayer

    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == text.num_hidden_layers]
    found = [m for m in lists if len(m) and isinstance(m[0], GradientCheckpointingLayer)]
    return max(found, key=lambda m: _count(m.parameters()), default=None)


def _experts_per_token(text: Any, layer: nn.Module) -> int:
    if not any(parameter.ndim == 3 for parameter in layer.parameters()):
        return 0
    names = ("num_experts_per_tok", "experts_per_token", "moe_top_k", "top_k_experts", "moe_topk")
    return next((getattr(text, name) for name in names if getattr(text, name, None)), 1)


def _has_own_gate(module: nn.Module) -> bool:
    """Whether experts have a gate of their own kind: that of gpt-oss clamps both projections and shifts one."""
    from transformers.integrations.moe import _default_apply_gate

    return storage.are_experts(module) and type(module)._apply_gate is not _default_apply_gate


def _score_bytes(text: Any, layer: nn.Module) -> int:
    has_sinks = any(name.endswith("sinks") for name, _ in layer.named_parameters())
    return 2 if has_sinks else 8 if getattr(text, "attn_logit_softcapping", None) is not None else 6


def _active(layers: nn.ModuleList, experts_per_token: int) -> int:
    dense = _count(module.weight for layer in layers for module in layer.modules() if _is_linear(module))
    experts = [p for p in layers.parameters() if p.ndim == 3]
    return dense + sum(p.numel() // p.shape[0] * experts_per_token for p in experts)


def _mlp_widths(text: Any, layer: nn.Module, experts_per_token: int) -> tuple[int, int]:
    """Outputs of an MLP's first projections and inputs of its last, summed over the experts of a token."""
    linear = {name: module for name, module in layer.named_modules() if _is_linear(module) and lora.is_mlp(name)}
    last = [module for name, module in linear.items() if lora.leaf(name) in lora.DOWN]
    first = [module for name, module in linear.items() if lora.leaf(name) not in lora.DOWN]
    up = sum(module.weight.shape[0] for module in first if not experts_per_token)
    product = sum(module.weight.shape[1] for module in last)
    if experts_per_token:
        width = getattr(text, "moe_intermediate_size", None) or text.intermediate_size
        product += experts_per_token * width
        up = 2 * product
    return up, product or text.intermediate_size


def _norms(layer: nn.Module, heads: int, key_value_heads: int, head_width: int) -> list[tuple[int, int]]:
    """Width and number of statistics of each norm in a layer, per token."""
    found = []
    for name, module in layer.named_modules():
        weight = getattr(module, "weight", None)
        if "norm" not in type(module).__name__.lower() or weight is None:
            continue
        times = 1
        if weight.numel() == head_width and lora.leaf(name).startswith(("q", "k")):
            times = heads if lora.leaf(name).startswith("q") else key_value_heads
        found.append((times * weight.numel(), times))
    return found


def _norm_offset(layer: nn.Module) -> float | None:
    """That of the norms of a layer, if all of them can be fused; `None` otherwise."""
    from trl_ext.fused import norm

    found = {norm.offset_of(module) for module in layer.modules() if "norm" in type(module).__name__.lower()}
    return found.pop() if len(found) == 1 else None


def _vision(model: Any, layer_name: str) -> int:
    """Parameters outside the language model: vision and audio towers, projectors."""
    backbone = layer_name.rsplit(".", 2)[0]  # the module that contains the list of layers
    inside = {id(p) for p in model.get_submodule(backbone).parameters()}
    head = model.get_output_embeddings()
    inside |= {id(p) for p in head.parameters()} if head is not None else set()
    inside.add(id(model.get_input_embeddings().weight))
    return _count(p for p in model.parameters() if id(p) not in inside)
