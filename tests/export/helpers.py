"""Tiny bases and adapters that are away from zero, as folders."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def save_base(config: PreTrainedConfig, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)  # else all logits are nearly equal
    model.to(dtype).save_pretrained(folder)
    (folder / "tokenizer.json").touch()
    return folder


def save_adapter(base: Path, folder: Path, auto: Any = AutoModelForCausalLM, **lora: Any) -> Path:
    """An adapter none of whose parts is zero or as the base has it; weights in float32, as the trainers leave them."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = get_peft_model(auto.from_pretrained(base, dtype=torch.float32), LoraConfig(**options | lora))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def logits(model: PreTrainedModel, vocabulary: int = 96) -> torch.Tensor:
    ids = torch.arange(3 * 17).reshape(3, 17) * 7 % (vocabulary - 4) + 4
    return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
