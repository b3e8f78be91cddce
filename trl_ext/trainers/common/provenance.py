"""Describe a run by its settings, adapter, model and data, as plain values that a checkpoint keeps and a resume compares."""

import json
import os
from collections.abc import Iterator
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute
import torch
from peft import PeftModel

from trl_ext.checkpoints import changes, manifest
from trl_ext.reference.identity import base_model, base_tensors
from trl_ext.reference.implicit import FROZEN_COPY

LIBRARIES = ("trl", "transformers", "peft", "torch", "bitsandbytes")

RECORDED_ELSEWHERE = ("loss_kwargs", "model_init_kwargs", "hub_token", "output_dir")
TRLS_SPELLING = ("loss_type", "loss_weights")
ADAPTER_NAMES = {"r": "lora_r", "target_modules": "lora_target_modules", "modules_to_save": "lora_modules_to_save"}
ADAPTER_IRRELEVANT = {
    "base_model_name_or_path", "revision", "inference_mode", "task_type", "auto_mapping", "peft_version", "runtime_config",
}  # fmt: skip
SAMPLE = 64
"""Elements of each weight matrix that go into a model's digest: enough to distinguish two models, and fast to read."""


def of_run(trainer: Any) -> dict[str, Any]:
    """Describe a trainer that is about to train, before anything of a checkpoint is loaded into it."""
    return {
        "settings": of_arguments(trainer.args) | _rewards(trainer),
        "adapter": _adapter(trainer.model),
        "model": _model(trainer),
        "data": _data(trainer.train_dataset),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def refuse_other_settings(checkpoint: Path, args: Any) -> None:
    """Check a resume by its configuration alone, before weights are loaded; `of_run` covers the rest.

    Raises:
        UserError: See `changes.judge`.
    """
    if was := manifest.read(checkpoint):
        changes.judge(checkpoint, was, {"settings": of_arguments(args)}, is_allowed=args.resume_changed)


def of_arguments(args: Any) -> dict[str, Any]:
    """A configuration by the names of its fields, with the hyperparameters of its loss.

    Values "auto" are left out: they are not settled yet, or depend on the device.
    """
    values = {name: value for name, value in args.to_dict().items() if name not in RECORDED_ELSEWHERE}
    if hasattr(args, "loss_kwargs"):
        for name in TRLS_SPELLING:  # of `loss`, which is recorded
            values.pop(name, None)
    for name, value in (getattr(args, "loss_kwargs", None) or {}).items():
        if isinstance(value, dict):  # those of one part of a mix, where a field holds what the parts share
            values = {key: v for key, v in values.items() if key not in value}
            values |= {f"{name}.{part}": v for part, v in value.items()}
        else:
            values[name] = value
    settled = {name: _in_full(value) for name, value in values.items() if value != "auto"}
    return _plain(settled | {"processes": args.world_size})


def _in_full(value: Any) -> Any:
    """An existing path in its absolute form; other values unchanged."""
    is_place = isinstance(value, str) and os.sep in value and Path(value).expanduser().exists()
    return str(Path(value).expanduser().resolve()) if is_place else value


def _rewards(trainer: Any) -> dict[str, Any]:
    return {"reward_funcs": list(trainer.reward_func_names)} if hasattr(trainer, "reward_func_names") else {}


def _adapter(model: Any) -> dict[str, Any] | None:
    if not isinstance(model, PeftModel):
        return None
    given = model.peft_config[model.active_adapter].to_dict()
    return _plain(
        {ADAPTER_NAMES.get(k, k): v for k, v in given.items() if v is not None and k not in ADAPTER_IRRELEVANT}
    )


def _model(trainer: Any) -> dict[str, Any]:
    base = base_model(trainer.model)
    name = base.config._name_or_path
    described = {
        "model_name_or_path": Path(name).name if Path(name).exists() else name,
        "weights": _digest(tensor for _, tensor in base_tensors(base.base_model)),
        "dtype": str(base.dtype).removeprefix("torch."),
    }
    quantisation = getattr(base.config, "quantization_config", None)
    if quantisation is not None:
        as_dict = quantisation if isinstance(quantisation, dict) else quantisation.to_dict()
        described |= {k: v for k, v in as_dict.items() if k.startswith(("load_in_", "bnb_")) and v is not None}
    is_fixed = not getattr(trainer.args, "sync_ref_model", False)  # one that moves is in the checkpoint
    if isinstance(trainer.model, PeftModel) and FROZEN_COPY in trainer.model.peft_config and is_fixed:
        copies = {n: p for n, p in trainer.model.named_parameters() if FROZEN_COPY in n.split(".")}
        # Of a LoRA B alone: a fresh adapter is the base itself, whatever its random A. Of other types everything, vectors too.
        factors = [p for n, p in copies.items() if "lora_B" in n] or [p.reshape(1, -1) for p in copies.values()]
        described["starts_from"] = _digest(iter(factors))
    return _plain(described)


def _digest(tensors: Iterator[torch.Tensor]) -> str:
    """Digest of the first elements of every matrix; vectors are left out, since layers cast their biases."""
    digest = blake2b(digest_size=8)
    for tensor in tensors:
        if tensor.ndim > 1 and not tensor.is_meta:
            digest.update(tensor.detach().reshape(-1)[:SAMPLE].cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _data(dataset: Any) -> dict[str, Any] | None:
    """Examples and digest of the training data as the trainer sees it; `None` for a stream, which has no content yet."""
    if not isinstance(dataset, datasets.Dataset):
        return None
    columns = sorted(name for name in dataset.column_names if not name.startswith("ref_"))  # computed, so rounded
    digest = blake2b(json.dumps(columns).encode(), digest_size=8)
    for table in dataset.select_columns(columns).with_format("arrow").iter(1000):
        for name in columns:
            _update(digest, table[name].combine_chunks())
    return {"examples": len(dataset), "digest": digest.hexdigest()}


def _update(digest: Any, array: pa.Array) -> None:
    """Add the content of an Arrow array, whatever the layout of its buffers."""
    if isinstance(array, pa.ChunkedArray):
        for chunk in array.chunks:
            _update(digest, chunk)
    elif isinstance(array, pa.ExtensionArray):
        _update(digest, array.storage)
    elif pa.types.is_struct(array.type):
        for field, part in zip(array.type, array.flatten(), strict=True):
            digest.update(field.name.encode())
            _update(digest, part)
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        digest.update(array.value_lengths().fill_null(-1).to_numpy())
        _update(digest, array.flatten())
    elif pa.types.is_integer(array.type) and not array.null_count:
        digest.update(array.cast(pa.int64()).to_numpy())
    elif pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        lengths = pa.compute.binary_length(array)  # of images: sizes distinguish them, and bytes would take minutes
        digest.update(lengths.cast(pa.int64()).fill_null(-1).to_numpy())
    else:
        digest.update(json.dumps(array.to_pylist(), default=str).encode())


def _plain(value: Any) -> Any:
    """The value as JSON reads it back; sets become sorted lists."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return getattr(value, "value", value)
    return str(value).removeprefix("torch.")
