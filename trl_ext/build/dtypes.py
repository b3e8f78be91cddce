"""Choose the dtypes of weights, 4-bit matrix products and autocast from the recipe and the device."""

from dataclasses import dataclass

import torch
from transformers.utils.peft_utils import find_adapter_config_file

from trl_ext.build.model import model_path
from trl_ext.checks.device import half_precision_without_gpu
from trl_ext.model_files.available import require_model
from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError


@dataclass
class Precision:
    """Dtypes of a run.

    Attributes:
        model_dtype: Of weights that are not quantised, as transformers' `dtype` takes it.
        compute_dtype: Of the matrix products of 4-bit weights.
        training: The fields of the trainer's configuration that follow from it (`bf16`, `fp16`, `use_cpu`).
        reason: The choice and the reason for it, for the log.
    """

    model_dtype: str
    compute_dtype: torch.dtype
    training: dict[str, bool]
    reason: str


def precision(recipe: Recipe) -> Precision:
    """Choose dtypes from the recipe and the device.

    Without an accelerator everything is float32: most CPUs have no bfloat16 matrix products and emulate them at
    a small fraction of float32's speed. On an accelerator weights and matrix products are bfloat16, or float16
    if the card has no bfloat16. Settings of the recipe are kept.

    Raises:
        UserError: `bf16` or `fp16` is set without an accelerator and without `use_cpu`; or the model cannot be found.
    """
    require_model(model_path(recipe), recipe.get("model_revision"))
    on_cpu = bool(recipe.get("use_cpu")) or not torch.accelerator.is_available()
    asked = next((key for key in ("bf16", "fp16") if recipe.get(key)), None)
    if asked and on_cpu and not recipe.get("use_cpu"):
        raise UserError(half_precision_without_gpu(f"`{asked}`", asked))
    if on_cpu:
        default, training = "float32", {"use_cpu": True, "bf16": False, "fp16": False}
        why = "no accelerator in use"
    elif not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False):
        default, training = "bfloat16", {"bf16": True, "fp16": False}
        why = f"native on {_device_name()}"
    else:
        default, training = "float16", {"bf16": False, "fp16": True}
        why = f"{_device_name()} has no native bfloat16"
    if "bf16" in recipe.explicit or "fp16" in recipe.explicit:
        training |= {"bf16": bool(recipe.get("bf16")), "fp16": bool(recipe.get("fp16"))}
    # Without an adapter all weights are trained; bfloat16 weights would hardly move, so they are float32 under autocast.
    trains_all = not recipe.get("use_peft") and find_adapter_config_file(model_path(recipe)) is None
    model_dtype = recipe.get("dtype") if "dtype" in recipe.explicit else "float32" if trains_all else default
    compute = recipe.get("bnb_4bit_compute_dtype") or "auto"
    if compute == "auto":
        compute = default if model_dtype in (None, "auto") else model_dtype
    reason = f"weights {model_dtype}, 4-bit compute {compute}" if recipe.get("load_in_4bit") else f"{model_dtype}"
    autocast = "bf16" if training["bf16"] else "fp16" if training["fp16"] else "off"
    return Precision(
        model_dtype, getattr(torch, compute), training, f"{reason}, autocast {autocast} ({default}: {why})"
    )


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else torch.accelerator.current_accelerator().type


def on_any_device() -> Precision:
    """Dtypes for a configuration that nothing is trained with, whatever device this computer has."""
    return Precision("float32", torch.float32, {"use_cpu": True, "bf16": False, "fp16": False}, "")
