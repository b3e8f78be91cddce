"""Rows of a random model, and small models of other kinds."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl.trainer.utils import add_fused_lm_head

from tests.batching.helpers import SIZES
from tests.trainers.helpers import lora, randomise_lora_b
from trl_ext.trainers.common.row_memory import RowMemory
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.rollout.rows import RolloutRows
from trl_ext.trainers.rollout.value_head import ValueHead

TEMPERATURE = 0.7
KINDS = {
    "llama": ("llama", {}),
    "qwen 3": ("qwen3", {"head_dim": 16}),
    "gpt 2, absolute positions": ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}),
}


def rows_of(kind="llama", **settings):
    """Rows of a random model with an adapter whose B is not zero, and the same model without TRL's head."""
    model_type, changes = KINDS[kind]
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **changes})).eval()
    add_fused_lm_head(base, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    targets = ["c_attn"] if model_type == "gpt2" else ["q_proj", "v_proj", "gate_proj"]
    model = get_peft_model(base, lora(target_modules=targets)).eval()
    randomise_lora_b(model)
    given = {"row_tokens": "auto", "gradient_checkpointing": False, "packing": True, "bf16": False, "fp16": False}
    args = SimpleNamespace(**{**given, "optim": "sgd", "device": torch.device("cpu"), **settings})
    runtime = Runtime(model, args, Accelerator(cpu=True), contextlib.nullcontext, lambda batch: batch)
    return RolloutRows(runtime, RowMemory(runtime, lambda: None), pad_token_id=0)


def random_head(size=64):
    head = ValueHead(size)
    torch.manual_seed(5)
    head.weight.data.normal_()
    return head


def small_model(folder: Path, like: str, model_type: str, **sizes: Any) -> str:
    """Write a random model of a type with the tokenizer of another one; returns its folder."""
    tokenizer = AutoTokenizer.from_pretrained(like, padding_side="left")
    given = {"vocab_size": len(tokenizer), "eos_token_id": 3}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes | given)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
