"""What a reference log-probability depends on besides the tokens, as one digest.

Part of it: every byte of the base's weights, persistent buffers and quantisation state as they lie in memory,
each with name, dtype and shape; the model's class, its source file and the version of transformers; its
configuration, attention implementation and quantisation settings included; the autocast dtype and TF32; and,
where training continues from an adapter, the frozen copy of that adapter.

Not part of it: adapters in training; dropout (the reference runs in evaluation mode); the device and the
versions of torch and of kernels, which change a value by rounding alone; the path or revision the weights
came from, since the weights themselves are read; the tokenizer and its chat template, whose whole effect is
in the token ids that form the rest of a key.

So a changed weight, dtype, quantisation type, RoPE or window setting is always seen. Not seen: code changed
at run time, that is forwards patched from outside, and remote code beyond the file of the model's class.
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
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from trl_ext.batching.attention import ordinary
from trl_ext.reference.implicit import FROZEN_COPY

CHUNK_BYTES = 64 * 2**20
"""Weights on an accelerator are copied to the host in pieces of this size."""

WITHOUT_EFFECT = {
    "_name_or_path", "architectures", "bos_token_id", "eos_token_id", "id2label", "label2id",
    "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id", "return_dict",
    "router_aux_loss_coef", "transformers_version", "use_cache",
}  # fmt: skip
"""Settings of a model's configuration that trainers and loaders change and no log-probability depends on."""


def reference_identity(model: nn.Module, autocast_dtype: torch.dtype | None = None) -> str:
    """Digest of the reference `model` computes with its adapter off, 32 hexadecimal digits.

    Equal for any adapter or none, on any device, and after any training, which leaves the base alone. Ask
    once, before the first forward: 4-bit layers then cast their biases to the compute dtype, and packed rows
    switch the attention implementation to an equivalent one. Reads all weights, about 1 GB a second and CPU
    thread.

    Args:
        model: A `PeftModel`, or a model without adapters that is itself the reference. Not wrapped for
            several processes, and on a CPU after `frozen_base.keep_exact_cpu_kernels`.
        autocast_dtype: Dtype under which the reference runs in autocast; `None` if it does not.

    Raises:
        ValueError: If some weights are not in memory (offloaded to disk).
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
    """The reference in a few words, for people: ``Qwen3-8B, nf4 (double), autocast bfloat16``."""
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
    """The transformers model inside a `PeftModel`, adapter layers still in it; other models as they are."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def base_tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """What a checkpoint of the base would hold, under the names it has without adapters.

    Asking each module for what it saves also gives the quantisation state kept beside quantised weights.
    """
    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        is_tuner = isinstance(module, BaseTunerLayer)
        module = module.get_base_layer() if is_tuner else module.original_module
    own: dict[str, Any] = {}
    module._save_to_state_dict(own, prefix, keep_vars=False)
    for name, value in own.items():
        if isinstance(value, torch.Tensor):
            yield name, value.detach()
    for name, child in module.named_children():
        yield from base_tensors(child, f"{prefix}{name}.")


def _frozen_adapter_tensors(model: PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        if FROZEN_COPY in name.split("."):
            yield name, parameter.detach()


def _tensor_digest(tensor: torch.Tensor) -> str:
    if tensor.is_meta:
        raise ValueError(
            "Some weights of the model are not in memory, so the reference cannot be identified: "
            "load the model without offloading, or switch the reference cache off."
        )
    digest = blake2b(digest_size=16)
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    for piece in raw.split(CHUNK_BYTES):
        digest.update(piece.cpu().numpy())
    return digest.hexdigest()


def _source_digest(cls: type) -> str:
    try:
        return blake2b(Path(inspect.getfile(cls)).read_bytes(), digest_size=16).hexdigest()
    except (OSError, TypeError):  # defined in a session, not in a file
        return ""


def _settings(base: nn.Module) -> dict[str, Any]:
    """The configuration without what has no effect, and the attention and expert implementations in use."""
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
