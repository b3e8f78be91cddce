"""Give what the keys of LLaMA-Factory's v1 files mean. The trainer is on its command line (`llamafactory-cli dpo FILE`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trl_ext.foreign.dialect import Dialect, Reader, Values
from trl_ext.foreign.llama_factory import adapter, objective
from trl_ext.foreign.llama_factory.file_values import UNSET, names, number
from trl_ext.foreign.meaning import Meaning
from trl_ext.support import yaml_text

CONFIGS = (
    "peft_config",
    "kernel_config",
    "dist_config",
    "quant_config",
    "optim_config",
    "init_config",
    "lr_scheduler_config",
)
OF_DPO = ("pref_loss", "pref_beta", "pref_ftx", "simpo_gamma", "dpo_label_smoothing", "ld_alpha")
COMMANDS = {"dpo": "dpo", "sft": "sft", "rm": "rm", "reward": "rm"}
"""`--trainer`, or a command of LLaMA-Factory, and its stage."""


def _is_written_in(values: Values) -> bool:
    return isinstance(values.get("model"), str) and (
        "train_dataset" in values
        or "model_class" in values
        or any(isinstance(values.get(key), Mapping) for key in CONFIGS[:4])
    )


def _stage(values: Values) -> str:
    """What the file trains: by `--trainer`, by keys that only DPO has, or by its data."""
    if (asked := COMMANDS.get(str(values.get("trainer")))) is not None:
        return asked
    has_pairs = any(entry.get("converter") == "pair" for entry in _entries(values.get("train_dataset")).values())
    return "dpo" if has_pairs or any(key in values for key in OF_DPO) else "sft"


def _staged(values: Values) -> dict[str, Any]:
    return {**values, "stage": _stage(values)}


def _trainer(value: Any, values: Values) -> Meaning | tuple[Meaning, ...]:
    found = objective.MEANS["stage"](_stage(values), _staged(values))
    if value is None and found.settings.get("trainer") == "sft":
        return Meaning(
            found.settings,
            "LLaMA-Factory names the trainer on its command line: convert with `--trainer rm` for a reward model",
        )
    return found


def _preference(key: str) -> Reader:
    return lambda value, values: objective.MEANS[key](value, _staged(values))


def _entries(path: Any) -> dict[str, Mapping[str, Any]]:
    """The datasets in a YAML file of data; empty if the value is no such file."""
    if not isinstance(path, str) or not path.endswith((".yaml", ".yml")):
        return {}
    try:
        found = yaml_text.parse(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {str(k): v for k, v in found.items() if isinstance(v, Mapping)} if isinstance(found, Mapping) else {}


def _data(value: Any, values: Values) -> Meaning | tuple[Meaning, ...]:
    if not value:
        return UNSET
    entries = list(_entries(value).values())
    data = _rows(value, entries)
    if _stage(values) != "sft" or (entries and all(entry.get("converter") == "alpaca" for entry in entries)):
        return data
    return data, Meaning({"assistant_only_loss": True}, "LLaMA-Factory does not train on the user's turns")


def _rows(value: Any, entries: list[Mapping[str, Any]]) -> Meaning:
    if not entries:
        reason = ""
        if str(value).endswith((".yaml", ".yml")):
            reason = "this file names the data, and it is not here. Replace it by a data file or a name on the Hub"
        return Meaning({"dataset_name": value}, reason)
    changes = "the first rows are taken, not random ones" if any(entry.get("size") for entry in entries) else ""
    if any(number(entry.get("weight")) not in (None, 1) for entry in entries):
        changes = "every dataset is used once, without `weight`"
    if len(entries) == 1:
        split = _split(entries[0])
        return Meaning(
            {"dataset_name": entries[0].get("path")} | ({"dataset_train_split": split} if split != "train" else {}),
            "",
            changes,
        )
    return Meaning(
        {"datasets": [{"path": str(entry.get("path")), "split": _split(entry)} for entry in entries]}, "", changes
    )


def _split(entry: Mapping[str, Any]) -> str:
    split = str(entry.get("split") or "train")
    return f"{split}[:{int(size)}]" if (size := number(entry.get("size"))) else split


def _adapter(value: Any, values: Values) -> Meaning | tuple[Meaning, ...]:
    given = value if isinstance(value, Mapping) else {}
    kind = str(given.get("name") or "full")
    if kind != "lora":
        spelled = {"finetuning_type": "freeze" if kind == "freeze" else "full", **given}
        return adapter.MEANS["finetuning_type"](spelled["finetuning_type"], spelled)
    if given.get("adapter_name_or_path"):
        return adapter.MEANS["adapter_name_or_path"](given["adapter_name_or_path"], {**values, **given})
    targets = names(given.get("target_modules", "all"))
    settings = {
        "use_peft": True,
        "lora_r": given.get("r", 8),
        "lora_alpha": given.get("lora_alpha", 16),
        "lora_dropout": given.get("lora_dropout", 0.05),
        "lora_target_modules": "all-linear" if targets == ["all"] else targets,
    }
    more = {"use_rslora": "use_rslora", "use_dora": "use_dora", "modules_to_save": "lora_modules_to_save"}
    return Meaning(settings | {name: given[key] for key, name in more.items() if given.get(key)})


def _quantised(value: Any, values: Values) -> Meaning:
    given = value if isinstance(value, Mapping) else {}
    bits = str(given.get("quantization_bit"))
    if bits not in ("4", "8"):
        return Meaning(reason="the base is not quantised, as here")
    settings: dict[str, Any] = {f"load_in_{bits}bit": True}
    if bits == "4":
        settings["use_bnb_nested_quant"] = bool(given.get("double_quantization", True))
        settings["bnb_4bit_quant_type"] = given.get("quantization_type", "nf4")
    return Meaning(settings)


def _accumulated(value: Any, values: Values) -> Meaning:
    whole, one = number(value), number(values.get("micro_batch_size")) or 1
    if not whole:
        return UNSET
    return Meaning(
        {"gradient_accumulation_steps": max(1, int(whole // one))},
        "`global_batch_size` divided by `micro_batch_size`, for one GPU",
    )


def _kernels(value: Any, values: Values) -> Meaning:
    name = str(value.get("name")) if isinstance(value, Mapping) else ""
    return (
        Meaning({"use_liger_kernel": True}) if "liger" in name else Meaning(reason="kernels are those of transformers")
    )


def _optimizer(value: Any, values: Values) -> Meaning:
    name = str(value.get("name")) if isinstance(value, Mapping) else ""
    if not name:
        return UNSET
    return Meaning(
        reason=f"transformers has no optimizer of the name {name} with these settings",
        changes="the optimizer is AdamW",
    )


def _batching(value: Any, values: Values) -> Meaning:
    if value in (None, "normal", "padding_free"):
        return Meaning(reason="padding has no effect on the result")
    return Meaning(reason="a step has a fixed number of rows", changes="steps do not have a fixed number of tokens")


LAUNCH = Meaning(reason="processes are started by `accelerate launch`")

MEANS: dict[str, str | Meaning | Reader] = {
    "trainer": _trainer,
    "model": "model_name_or_path",
    "model_class": lambda value, values: Meaning(reason="the trainer decides which class loads the model"),
    "custom_chat_template": lambda value, values: UNSET if not value else Meaning(
        reason="the chat template is the tokenizer's. Save the tokenizer with this one", changes="turns are written by the tokenizer's template"
    ),
    "flash_attn": lambda value, values: UNSET if not value else Meaning({"attn_implementation": value}),
    "peft_config": _adapter,
    "quant_config": _quantised,
    "kernel_config": _kernels,
    "init_config": Meaning(reason="it has no effect on training"),
    "train_dataset": _data,
    "eval_dataset": lambda value, values: UNSET if not value else Meaning(
        reason="evaluation data is a split of the dataset", changes=f"the run does not evaluate on {value}"
    ),
    "cutoff_len": lambda value, values: Meaning(
        {"max_length": value}, changes="longer rows are dropped, not cut" if _stage(values) == "rm" else ""
    ),
    "micro_batch_size": "per_device_train_batch_size",
    "global_batch_size": _accumulated,
    "batching_strategy": _batching,
    "enable_activation_checkpointing": lambda on, values: Meaning(reason="activations are recomputed, as here") if on else Meaning(
        {"gradient_checkpointing": False}
    ),
    "max_steps": lambda value, values: UNSET if not value else (),
    "optim_config": _optimizer,
    "lr_scheduler_config": lambda value, values: UNSET if not value else Meaning(
        reason="`lr_scheduler_type` names the schedule", changes="the learning rate is constant"
    ),
    "save_epochs": lambda value, values: UNSET if not value else Meaning({"save_strategy": "epoch"}),
    "save_steps": lambda value, values: Meaning({"save_strategy": "no"}, "LLaMA-Factory saves at the end only") if not value else (),
    "save_ckpt_as_hf": Meaning(reason="checkpoints are those of transformers"),
    "resume_from_checkpoint": lambda value, values: UNSET if not value else Meaning(
        reason="checkpoints of LLaMA-Factory have another form", changes="training starts again from the model"
    ),
    **dict.fromkeys(("sample_backend", "max_new_tokens"), Meaning(reason="it is for chat, so it has no effect on training")),
    **dict.fromkeys(
        ("dist_config", "dp_size", "cp_size", "cp_mode", "mp_replicate_size", "mp_shard_size", "dist_timeout", "batching_workers"),
        LAUNCH,
    ),
    **{key: _preference(key) for key in OF_DPO},
}  # fmt: skip


def _defaults(values: Values) -> dict[str, Any]:
    found: dict[str, Any] = {
        "trainer": None, "peft_config": None, "cutoff_len": 2048, "learning_rate": 1e-4, "micro_batch_size": 1,
        "lr_scheduler_type": "constant", "weight_decay": 0.01, "save_steps": None,
    }  # fmt: skip
    if "save_epochs" in values:
        del found["save_steps"]
    if _stage(values) == "dpo":
        found["pref_beta"] = 0.1
        if values.get("pref_loss") == "simpo":
            found["simpo_gamma"] = 0.5
    return found


LLAMA_FACTORY_V1 = Dialect("LLaMA-Factory v1", MEANS, _is_written_in, _defaults)
