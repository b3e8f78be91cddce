"""Load a base that is stored quantised, so that training on it equals training on the same base quantised on loading."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AwqConfig,
    BitsAndBytesConfig,
    CompressedTensorsConfig,
    FineGrainedFP8Config,
    GPTQConfig,
    Mxfp4Config,
    PreTrainedConfig,
    PreTrainedModel,
)

from trl_ext.checks import quantised as rules
from trl_ext.model_files import quantised
from trl_ext.model_files.quantised import Stored
from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError

DEQUANTISING = {
    "fp8": FineGrainedFP8Config,
    "mxfp8": FineGrainedFP8Config,
    "mxfp4": Mxfp4Config,
    "compressed-tensors": CompressedTensorsConfig,
}
"""Configurations by which transformers dequantises a checkpoint when it loads it."""
KERNELS = {"gptq": (GPTQConfig, "gptq_torch"), "awq": (AwqConfig, "torch_awq")}
"""Configurations that choose the kernels of GPT-QModel, and what they call those that are written in PyTorch."""


def require(recipe: Recipe, base: str, revision: str | None, *, is_continued: bool = False) -> Stored | None:
    """How the base of a recipe is stored; `None` if it is not quantised. Only its configuration is read.

    `trl-ext validate` reads folders (`trl_ext.checks.quantised`); this reads models on the Hub too.

    Args:
        base: Folder or Hub name.
        revision: On the Hub.
        is_continued: An adapter on the base is trained further.

    Raises:
        UserError: It cannot be trained, or settings of the recipe contradict it.
    """
    try:
        stored = of(base, revision)
    except OSError:  # whatever loads the model says why it cannot be read
        return None
    if stored is None:
        return None
    where = "`model_name_or_path`"
    asked = {key: True for key in ("load_in_4bit", "load_in_8bit") if recipe.get(key)}
    problems = [*rules.contradictions(stored, asked, _named(asked)), *rules.untrainable(stored, where)]
    if recipe.get("use_vllm"):
        problems.append(rules.unsampled_by_vllm(stored, "`use_vllm`"))
    if not recipe.get("use_peft") and not is_continued:
        problems += rules.needs_adapter(stored, where)
        if recipe.method.has_loss and recipe.needs_reference and not recipe.get("precompute_ref_log_probs"):
            problems += rules.needs_kept_reference(stored, where, recipe.info.name)
    if stored.is_bnb_4bit:
        fixed = {key: recipe.get(key) for key in rules.STORED_AS if key in recipe.explicit}
        problems += rules.other_than_stored(stored, fixed, _named(fixed))
    if problems:
        raise UserError(problems)
    return stored


def of(base: str, revision: str | None = None) -> Stored | None:
    """How a model is stored; `None` if it is not quantised. Its original is looked up in its model card, too."""
    base = os.path.expanduser(base)
    content, _ = PreTrainedConfig.get_config_dict(base, revision=revision or "main")
    card = None if Path(base).is_dir() or quantised.of_config(base, content) is None else _card(base)
    return quantised.of_config(base, content, card)


def for_loading(stored: Stored) -> Any:
    """The `quantization_config` to load a checkpoint with for training; `None` for the one it was written with.

    Of AWQ and GPTQ it chooses the kernels alone. GPT-QModel would take the fastest ones, most of which have no backward pass, and
    refuse `model.train()` after the weights are loaded. On a CPU its trainable kernels need a C++ compiler, but for PyTorch's.
    """
    if stored.kind in KERNELS:
        kind, on_cpu = KERNELS[stored.kind]
        return kind(bits=stored.bits, backend="auto_trainable" if torch.accelerator.is_available() else on_cpu)
    return DEQUANTISING[stored.kind](dequantize=True) if stored.method.is_dequantised else None


def align(model: Any, compute_dtype: torch.dtype | None = None, *, is_dequantised: bool = False) -> None:
    """Let a loaded checkpoint that was stored quantised compute as if it had been quantised on loading, or never.

    A checkpoint records dtypes of the machine it was written for: that of its embeddings and norms, that its layers dequantise to,
    and that of their matrix products. transformers keeps all three whatever `dtype` it loads with, so that a checkpoint written for
    a GPU computes in bfloat16 on a CPU, too. None of them is part of the quantised numbers.

    Args:
        model: A model that was stored quantised by bitsandbytes, or was dequantised; others are left as they are.
        compute_dtype: Of the matrix products of 4-bit weights; default: the dtype that the model was loaded in.
        is_dequantised: Whether the model was dequantised when it was loaded.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    settings = getattr(quantizer, "quantization_config", None)
    is_of_bnb = getattr(quantizer, "pre_quantized", False) and isinstance(settings, BitsAndBytesConfig)
    if not (is_of_bnb or is_dequantised):
        return
    from bitsandbytes.nn import Int8Params, Linear4bit, Params4bit

    dtype = model.config.dtype
    kept = in_float32(model, dtype)
    for parameter in model.parameters():
        if parameter.is_floating_point() and not isinstance(parameter, Int8Params | Params4bit):
            parameter.data = parameter.data.to(torch.float32 if id(parameter) in kept else dtype)
    if not is_of_bnb or not settings.load_in_4bit:
        return
    settings.bnb_4bit_compute_dtype = compute_dtype or dtype
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype, module.compute_type_is_set = settings.bnb_4bit_compute_dtype, True
            module.weight.quant_state.dtype = dtype


def in_float32(model: PreTrainedModel, dtype: torch.dtype) -> set[int]:
    """Ids of the parameters that transformers keeps in float32 when a model is loaded in `dtype`."""
    patterns = [re.escape(name).replace(r"\*", ".*") for name in model._get_dtype_plan(dtype)]
    found = model.named_parameters()
    return {id(parameter) for name, parameter in found if any(re.search(pattern, name) for pattern in patterns)}


def _named(keys: Any) -> dict[str, str]:
    return {key: f"`{key}`" for key in keys}


def _card(name: str) -> dict[str, Any]:
    """The metadata of a model card on the Hub; empty if there is none, or no network."""
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(name).data.to_dict()
    except (OSError, ValueError):
        return {}
