"""Compute the identity of a reference: a digest of everything its log-probabilities depend on besides the tokens.

The digest includes: every byte of the base's weights, persistent buffers and quantisation state in memory, each with name,
dtype and shape; the model's class, its source file and the version of transformers; the configuration with attention
implementation and quantisation settings; the autocast dtype and TF32; and the frozen copy of the adapter, if training
continues from one.

It does not include: adapters in training; dropout (the reference runs in evaluation mode); the device and the versions of
torch and of kernels, which change values only by rounding; the path or revision of the weights, since the weights
themselves are read; the tokenizer and its chat template, which only affect the token ids, the other part of a key.

So a change of weights, dtype, quantisation type, RoPE or window is always noticed. Not noticed are changes of code at run
time (patched forward methods), and remote code outside the file of the model's class.
"""

import inspect
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import transformers
from bitsandbytes.nn.parametrize import Bnb4bitParametrization
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from trl_ext.batching.attention import ordinary
from trl_ext.reference.implicit import FROZEN_COPY

CHUNK_BYTES = 64 * 2**20
"""Weights on a GPU are copied to the host in pieces of this many bytes."""

WITHOUT_EFFECT = {
    "_name_or_path", "architectures", "bos_token_id", "eos_token_id", "id2label", "label2id",
    "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id", "return_dict",
    "router_aux_loss_coef", "transformers_version", "use_cache",
}  # fmt: skip
"""Settings of a model's configuration that trainers and loaders change and that do not affect log-probabilities."""


def reference_identity(model: nn.Module, autocast_dtype: torch.dtype | None = None) -> str:
    """Compute the digest of the reference that `model` is with its adapter off: 32 hexadecimal digits.

    It does not depend on the adapter or the device, and training does not change it. Call it once, before the first forward
    pass: that pass casts the biases of 4-bit layers to the compute dtype, and packed rows switch to an equivalent attention
    implementation. It reads all weights, at about 1 GB per second and CPU thread.

    Args:
        model: A `PeftModel`, or a model without adapters that is itself the reference. Not wrapped for several processes;
            on a CPU after `frozen_base.keep_exact_cpu_kernels`.
        autocast_dtype: Dtype of autocast; `None` without autocast.

    Raises:
        ValueError: Some weights are not in memory (offloaded to disk).
    """
    base = base_model(model)
    tensors = list(base_tensors(base))
    facts: dict[str, Any] = {
        "class": type(base).__qualname__,
        "source": _source_digest(type(base)),
        "transformers": transformers.__version__,
        "config": _settings(base),
        "autocast": str(autocast_dtype),
        "tf32": torch.backends.cuda.matmul.fp32_precision == "tf32",
    }
    if isinstance(model, PeftModel) and FROZEN_COPY in model.peft_config:
        facts["frozen adapter"] = _plain(model.peft_config[FROZEN_COPY].to_dict())
        tensors += _frozen_adapter_tensors(model)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter's lock
        digests = pool.map(_tensor_digest, [tensor for _, tensor in tensors])
        facts["tensors"] = {
            name: (str(tensor.dtype), list(tensor.shape), digest)
            for (name, tensor), digest in zip(tensors, digests, strict=True)
        }
    return blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def describe_reference(model: nn.Module, autocast_dtype: torch.dtype | None = None) -> str:
    """Describe the reference in a few words, for example ``Qwen3-8B, nf4 (double), autocast bfloat16``."""
    base = base_model(model)
    name = base.config._name_or_path or type(base).__name__
    words = [Path(name).name if os.path.isdir(name) else name]
    quantisation = _settings(base).get("quantization_config") or {}
    if quantisation.get("load_in_4bit"):
        double = " (double)" if quantisation.get("bnb_4bit_use_double_quant") else ""
        words.append(f"{quantisation.get('bnb_4bit_quant_type', '4-bit')}{double}")
    elif quantisation:
        words.append("8-bit" if quantisation.get("load_in_8bit") else str(quantisation.get("quant_method")))
    dtype = str(base.dtype if autocast_dtype is None else autocast_dtype).removeprefix("torch.")
    words.append(dtype if autocast_dtype is None else f"autocast {dtype}")
    if isinstance(model, PeftModel) and FROZEN_COPY in model.peft_config:
        words.append("with the adapter it continues from")
    return ", ".join(words)


def base_model(model: nn.Module) -> nn.Module:
    """The transformers model inside a `PeftModel`, with its adapter layers; other models are returned as they are."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def base_tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a checkpoint of the base, with their names in a model without adapters.

    They are the tensors that each module saves, so they include the quantisation state of quantised weights.
    """
    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        is_tuner = isinstance(module, BaseTunerLayer)
        module = module.get_base_layer() if is_tuner else module.original_module
    own: dict[str, Any] = {}
    module._save_to_state_dict(own, prefix, keep_vars=False)
    for name, value in own.items():
        if isinstance(value, torch.Tensor):
            yield name, value.detach()
    if isinstance(module, Bnb4bitParametrization):  # of experts; it saves its state from outside
        for name, value in module.quant_state.as_dict(packed=True).items():
            yield f"{prefix}{name}", value
    for name, child in module.named_children():
        yield from base_tensors(child, f"{prefix}{name}.")


def _frozen_adapter_tensors(model: PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if FROZEN_COPY in name.split(".") and tensor.layout is torch.strided:
            yield name, tensor.detach()


def _tensor_digest(tensor: torch.Tensor) -> str:
    if tensor.is_meta:
        raise ValueError(
            "Some weights of the model are not in memory, so the reference cannot be identified. Load the model without "
            "offloading, or set `reference_cache: false`."
        )
    digest = blake2b(digest_size=16)
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    for piece in raw.split(CHUNK_BYTES):
        digest.update(piece.cpu().numpy())
    return digest.hexdigest()


def _source_digest(cls: type) -> str:
    try:
        return blake2b(Path(inspect.getfile(cls)).read_bytes(), digest_size=16).hexdigest()
    except (OSError, TypeError):  # defined interactively, not in a file
        return ""


def _settings(base: nn.Module) -> dict[str, Any]:
    """The configuration without settings that have no effect, and the attention and expert implementations in use."""
    config = base.config
    settings = _plain(config.to_dict())
    parts = {"": config, **{name: getattr(config, name, None) for name in getattr(config, "sub_configs", {})}}
    settings["_attn_implementation"] = {
        name: ordinary(getattr(part, "_attn_implementation", None)) for name, part in parts.items()
    }
    settings["_experts_implementation"] = {
        name: getattr(part, "_experts_implementation", None) for name, part in parts.items()
    }
    return settings


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items() if key not in WITHOUT_EFFECT}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
