"""Build the policy's weights for an inference engine without changing the base.

TRL merges the adapter into the base and removes it again. Each time this rounds a 16-bit base a little further, so the
reference would drift, and merging into a 4-bit base is not exact. Here each merged matrix is built, sent and discarded.
"""

from collections.abc import Iterator

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight

from trl_ext.trainers.rollout.roles import POLICY


def check(config: PeftConfig) -> None:
    """ValueError if the adapter is not plain LoRA."""
    if not isinstance(config, LoraConfig) or config.use_dora or config.target_parameters:
        raise ValueError(
            "`use_vllm` needs the policy as plain weights, which can only be built from plain LoRA (no DoRA, no "
            "`target_parameters`). Change the adapter, or set `use_vllm: false`."
        )


@torch.no_grad()
def named_weights(model: PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Names as in the base model's checkpoint, and weights of the policy; 4-bit ones in their compute dtype."""
    base = model.get_base_model()
    trained = f".modules_to_save.{POLICY}"
    for name, parameter in base.named_parameters():
        if ".lora_" in name or ".original_module." in name or (".modules_to_save." in name and trained not in name):
            continue
        path, _, leaf = name.rpartition(".")
        weight = dequantize_module_weight(base.get_submodule(path)) if leaf == "weight" else parameter
        if leaf == "weight" and path.endswith(".base_layer"):
            layer: LoraLayer = base.get_submodule(path.removesuffix(".base_layer"))
            if POLICY in layer.lora_A or POLICY in layer.lora_embedding_A:
                weight = weight + layer.get_delta_weight(POLICY).to(weight.dtype)
        yield name.replace(".base_layer", "").replace(trained, ""), weight.detach()
