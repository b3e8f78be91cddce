"""Build the policy's weights for an inference engine, or for a merged copy, without changing the base.

TRL merges the adapter into the base and removes it again. Each time this rounds a 16-bit base a little further, so the
reference would drift, and merging into a 4-bit base is not exact. Here each merged matrix is built, sent and discarded.
"""

from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from trl_ext.experts.storage import packed, path_of_original
from trl_ext.trainers.rollout.roles import POLICY


def check(config: PeftConfig) -> None:
    """ValueError if the adapter is not plain LoRA."""
    if not isinstance(config, LoraConfig) or config.use_dora or config.target_parameters:
        raise ValueError(
            "`use_vllm` needs the policy as plain weights, which can only be built from plain LoRA (no DoRA, no "
            "`target_parameters`, no experts). Change the adapter, or set `use_vllm: false`."
        )


def sent_merged(generation: Any, model: PeftModel) -> None:
    """Let `generation`, TRL's `VLLMGeneration`, send the merged weights of a policy, matrix by matrix.

    Raises:
        ValueError: The adapter is not plain LoRA: PEFT may have found experts among its `target_modules`.
    """
    check(model.peft_config[POLICY])
    generation._iter_named_params = lambda: named_weights(model)


def named_weights(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """Names as in the base model's checkpoint, and weights of the policy; 4-bit ones in their compute dtype."""
    base = model.get_base_model()
    for plain, name in plain_names(base):
        yield plain, weight(base, name)


def plain_names(base: nn.Module) -> Iterator[tuple[str, str]]:
    """Names as in the base model's checkpoint, and those of the parameters of `base` that the policy computes with."""
    for name, _ in base.named_parameters():
        if ".lora_" in name:
            continue
        wrapper, kind, rest = _saved_whole(name)
        if wrapper is not None:
            module: ModulesToSaveWrapper = base.get_submodule(wrapper)
            used = f"modules_to_save.{POLICY}." if POLICY in module.modules_to_save else "original_module."
            if not f"{kind}.{rest}".startswith(used):
                continue
            plain = f"{wrapper}.{kind}.{rest}".replace(f".{used}", ".")
        else:
            plain = name
        if (of_experts := path_of_original(plain)) is not None:
            plain = ".".join(of_experts)
        yield plain.replace(".base_layer", ""), name


@torch.no_grad()
def weight(base: nn.Module, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """A weight of the policy, without gradient: the parameter itself where it is neither quantised nor adapted.

    Args:
        base: With the adapters.
        name: Of a parameter of `base`, from `plain_names`.
        dtype: In which the adapter is added and the weight is returned (default: that of the weight).
    """
    if (of_experts := path_of_original(name)) is not None:
        found = packed(base.get_submodule(of_experts[0]), of_experts[1]).dequantised()
        return found.to(dtype or found.dtype)
    path, _, leaf = name.rpartition(".")
    module = base.get_submodule(path)
    parameter = module.get_parameter(leaf)
    found = dequantize_module_weight(module) if leaf == "weight" else parameter
    if parameter is not module.get_parameter(leaf) and parameter.device == module.get_parameter(leaf).device:
        setattr(module, leaf, parameter)  # on a CPU, peft puts an equal one in its place
    found = found.detach().to(dtype or found.dtype)
    if leaf == "weight" and path.endswith(".base_layer"):
        layer: LoraLayer = base.get_submodule(path.removesuffix(".base_layer"))
        if POLICY in layer.lora_A or POLICY in layer.lora_embedding_A:
            found = found + layer.get_delta_weight(POLICY).to(found.dtype)
    return found


def _saved_whole(name: str) -> tuple[str | None, str, str]:
    """Path of the wrapper of a module that an adapter trains whole, `modules_to_save` or `original_module`, and the rest."""
    for kind in ("modules_to_save", "original_module"):
        wrapper, found, rest = name.partition(f".{kind}.")
        if found:
            return wrapper, kind, rest
    return None, "", ""
