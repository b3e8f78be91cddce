"""Rules about FSDP, which shards the base over several GPUs. A recipe turns it on with `fsdp`, a launcher with variables."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.checks.rule import problem, requirement
from trl_ext.checks.settings import Settings
from trl_ext.methods import Method
from trl_ext.model_files import adapter as adapter_folder

STORAGE = ("bfloat16", "float16", "float32")
"""Dtypes in which FSDP2 can shard 4-bit weights."""

PLAN = "The plan counts one GPU that holds the whole base. FSDP shards the base, so each GPU needs less."


def is_on(fsdp: Any) -> bool:
    """Whether FSDP is on: by the setting `fsdp`, or by an environment variable that `accelerate launch` sets."""
    return bool(fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes")


def cuts_rows(method: Method) -> bool:
    return method.cuts_rows


def _where(s: Settings) -> str:
    return s.where("fsdp") if s["fsdp"] else "FSDP, which `accelerate launch` turned on,"


def _options(s: Settings) -> dict[str, str]:
    """Options of FSDP as words: those of `fsdp_config`, or of the launcher."""
    if not s["fsdp"]:
        prefix = "FSDP_"
        launched = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
        defaults = {"version": "1", "auto_wrap_policy": "NO_WRAP"}
        given: Any = defaults | {name.removeprefix(prefix).lower(): value for name, value in launched.items()}
    else:
        given = s["fsdp_config"] or {}
        if isinstance(given, str):
            try:
                given = json.loads(Path(given).expanduser().read_text(encoding="utf-8"))
            except (OSError, ValueError):
                given = {}
    if not isinstance(given, dict):
        return {}
    return {str(name).removeprefix("fsdp_"): str(value).lower() for name, value in given.items()}


@problem("fsdp", applies_to=lambda method: not method.cuts_rows)
def unsupported(s: Settings) -> Iterator[str]:
    if is_on(s["fsdp"]):
        yield (
            f"{_where(s)} is not supported with `trainer: {s.method.name}`, only with losses on given preferences. Use plain "
            "`accelerate launch --multi_gpu` for several GPUs: each then holds a full copy of the base model."
        )


@requirement("fsdp")
def processes(s: Settings) -> Iterator[str]:
    if s["fsdp"] and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield (
            f"{s.where('fsdp')} shards the base over several processes, and there is only one. Start the run with "
            "`accelerate launch --multi_gpu --num_processes 2 -m trl_ext run …`, or remove `fsdp`."
        )


@problem("fsdp", "fsdp_config", applies_to=cuts_rows)
def options(s: Settings) -> Iterator[str]:
    """Options of FSDP itself."""
    if not is_on(s["fsdp"]):
        return
    given, place = _options(s), "in `fsdp_config`" if s["fsdp"] else "in the file of `accelerate launch`"
    prefix = "" if s["fsdp"] else "fsdp_"
    if s["fsdp"] and isinstance(s["fsdp_config"], str) and not Path(s["fsdp_config"]).expanduser().is_file():
        yield f"{s.where('fsdp_config')} is {s['fsdp_config']}, and there is no such file. Give a JSON file or a mapping."
        return
    if given.get("version", "2") != "2":
        yield (
            f"{_where(s)} is version {given['version']}, and only version 2 is supported. Set `{prefix}version: 2` {place}."
        )
    if given.get("auto_wrap_policy", "").upper() == "NO_WRAP":
        yield (
            f"{_where(s)} would gather the whole base on every GPU at once, because no layers are named that it gathers one by "
            f"one. Set `{prefix}auto_wrap_policy: TRANSFORMER_BASED_WRAP` {place}."
        )
    if given.get("activation_checkpointing", "false") not in ("false", "0", "no"):
        yield (
            f"{_where(s)} has `{prefix}activation_checkpointing`, which wraps layers under other names, so the adapter could "
            f"not be saved. Remove it {place}, and set `gradient_checkpointing: true` in the recipe."
        )


@problem(
    "fsdp", "row_tokens", "gradient_checkpointing", "precompute_ref_log_probs", "sync_ref_model", "fp16",
    applies_to=cuts_rows,
)  # fmt: skip
def settings(s: Settings) -> Iterator[str]:
    """Settings that would let processes run different passes, or need the whole base on one GPU."""
    if not is_on(s["fsdp"]):
        return
    if s["row_tokens"] == "auto":
        yield (
            f"{_where(s)} needs a number for `row_tokens`, for instance 4096. `row_tokens: auto` measures the model on one GPU. "
            "Lower the number if memory runs out; the result stays the same."
        )
    if s["gradient_checkpointing"] == "auto":
        yield (
            f"{_where(s)} needs the same checkpointed layers on all GPUs, and `gradient_checkpointing: auto` chooses them by "
            "row. Set `gradient_checkpointing: true` (less memory) or `false` (faster)."
        )
    if s["precompute_ref_log_probs"]:
        yield (
            f"{s.where('precompute_ref_log_probs')} scores the data before FSDP shards the base, with the whole base on every GPU. "
            "Remove it: the base without its adapter is the reference in every step."
        )
    if s["sync_ref_model"]:
        yield (
            f"{s.where('sync_ref_model')} mixes whole adapter weights, and FSDP leaves a part of them on each GPU. Remove one of "
            "the two."
        )
    if s["fp16"]:
        yield f"{s.where('fp16')} scales the loss, which is not supported with FSDP. Set `bf16: true` instead."


@problem(
    "fsdp", "use_peft", "model_name_or_path", "lora_modules_to_save", "lora_target_parameters", "use_dora",
    applies_to=cuts_rows,
)  # fmt: skip
def adapter(s: Settings) -> Iterator[str]:
    """A trainer judges its adapter itself (`trl_ext.trainers.preference.sharded`)."""
    if not is_on(s["fsdp"]):
        return
    if not s["use_peft"] and not adapter_folder.is_continued(s["model_name_or_path"]):
        yield f"{_where(s)} is supported with an adapter only, not for training all weights. Add `use_peft: true`."
    for key in ("lora_modules_to_save", "lora_target_parameters", "use_dora"):
        if s["use_peft"] and s[key]:
            yield (
                f"{s.where(key)} trains other weights than the matrices of a plain LoRA, which is not supported with FSDP. "
                "Remove it."
            )


@problem("fsdp", "dataset_streaming", "streaming", applies_to=cuts_rows)
def streams(s: Settings) -> Iterator[str]:
    for key in ("dataset_streaming", "streaming"):
        if is_on(s["fsdp"]) and s[key]:
            yield (
                f"{s.where(key)} is true. With FSDP all processes run the same number of steps, and the length of a streamed "
                "dataset is not known. Remove it."
            )


@problem("fsdp", "load_in_8bit", "load_in_4bit", "bnb_4bit_quant_storage", applies_to=cuts_rows)
def quantised(s: Settings) -> Iterator[str]:
    """Without `bnb_4bit_quant_storage`, `trl_ext.build.model` chooses a dtype that can be sharded."""
    if not is_on(s["fsdp"]):
        return
    if s["load_in_8bit"]:
        yield f"{s.where('load_in_8bit')} keeps weights that FSDP cannot shard. Set `load_in_4bit: true` instead."
    storage = s["bnb_4bit_quant_storage"]
    if s["load_in_4bit"] and storage is not None and storage not in STORAGE:
        yield (
            f"{s.where('bnb_4bit_quant_storage')} is {storage}, and FSDP shards 4-bit weights only if they are stored as "
            f"{', '.join(STORAGE[:-1])} or {STORAGE[-1]}. Remove it, and the dtype of the computation is used."
        )
