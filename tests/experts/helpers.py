"""Tiny mixtures of experts in a folder, in 4 bits, and unquantised with the dequantised weights."""

from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Params4bit
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GptOssConfig,
    GraniteMoeConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from trl_ext.experts import quantizer
from trl_ext.support.frozen_base import keep_exact_cpu_kernels

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
MIXTURES = {
    "qwen 3": Qwen3MoeConfig(**SIZES, moe_intermediate_size=64, num_experts=8, head_dim=16),
    "qwen 2, shared expert": Qwen2MoeConfig(
        **SIZES, moe_intermediate_size=64, shared_expert_intermediate_size=64, num_experts=8
    ),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "gpt-oss": GptOssConfig(
        **SIZES,
        num_local_experts=4,
        head_dim=16,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=8,
    ),
    "granite": GraniteMoeConfig(**SIZES, num_local_experts=4),
}
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


def save(config: Any, folder: Path) -> str:
    """A random mixture in float32 whose experts differ and whose logits are not nearly equal."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 or name.endswith("bias"):
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    return str(folder)


def load(folder: str, *, is_double: bool = True, dtype: str = "float32", **options: Any) -> PreTrainedModel:
    """The mixture in 4 bits, computed in its dtype."""
    quantizer.install()
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=is_double,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=quantisation, **options)
    keep_exact_cpu_kernels(model)
    return model


def weight(model: nn.Module, name: str) -> torch.Tensor:
    """A weight by its name in the unquantised model, dequantised by bitsandbytes."""
    path, _, leaf = name.rpartition(".")
    found = getattr(model.get_submodule(path), leaf)
    return dequantize_4bit(found.data, found.quant_state) if isinstance(found, Params4bit) else found.detach()


def twin(quantised: PreTrainedModel, folder: str) -> PreTrainedModel:
    """The same mixture unquantised, with the dequantised weights, as transformers computes it."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, parameter in plain.named_parameters():
        parameter.data = weight(quantised, name).to(parameter.dtype).clone()
    return plain


def adapt(model: PreTrainedModel, **lora: Any) -> PeftModel:
    """With a LoRA none of whose parts is zero; the same weights each time."""
    adapted = get_peft_model(
        model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | lora)
    )
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(adapted.named_parameters()):
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return adapted


def ids(count: int = 2, length: int = 11) -> torch.Tensor:
    return torch.randint(4, 97, (count, length), generator=torch.Generator().manual_seed(2))


def gradients(model: nn.Module, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the mean loss of the next token, by the names of the trained parameters."""
    model.zero_grad()
    model(input_ids=tokens, labels=tokens).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
