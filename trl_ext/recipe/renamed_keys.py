"""List keys of published recipes that are not settings here, with what to write instead.

They come from older releases of transformers and TRL, from the alignment handbook and from other trainers.
"""

from collections.abc import Callable
from typing import Any

from trl_ext.recipe import reader
from trl_ext.support.messages import shown_text

LONGEST_LINE = 500
"""Characters of the longest setting that a sentence repeats."""

RENAMED = {
    # transformers and TRL
    "evaluation_strategy": "eval_strategy",
    "torch_dtype": "dtype",
    "max_seq_length": "max_length",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
    "dataset_train_name": "dataset_train_split",
    "dataset_test_name": "dataset_test_split",
    "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
    "simpo_gamma": "gamma",
    # the alignment handbook
    "preprocessing_num_workers": "dataset_num_proc",
    # other trainers, and plain words
    "lora_rank": "lora_r",
    "pref_beta": "beta",
    "pref_loss": "loss",
    "rl": "loss",
    "cutoff_len": "max_length",
    "sequence_len": "max_length",
    "max_samples": "max_train_samples",
    "base_model": "model_name_or_path",
    "micro_batch_size": "per_device_train_batch_size",
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "optimizer": "optim",
    "lr_scheduler": "lr_scheduler_type",
    "model": "model_name_or_path",
    # PPO in TRL before 1.13, and what its RLOO script takes
    "reward_model_name_or_path": "reward_funcs",
    "reward_model_path": "reward_funcs",
    "init_kl_coef": "kl_coef",
    "cliprange": "epsilon",
    "num_ppo_epochs": "num_iterations",
    "response_length": "max_completion_length",
    "dataset": "dataset_name",
    # LLaMA-Factory and Axolotl: one beta per loss here, whatever the loss
    **dict.fromkeys(("dpo_beta", "orpo_beta", "kto_beta", "simpo_beta", "cpo_beta", "rl_beta"), "beta"),
    "dpo_loss": "loss",
    "dpo_label_smoothing": "label_smoothing",
    "dpo_use_weighting": "use_weighting",
    "kto_chosen_weight": "desirable_weight",
    "kto_rejected_weight": "undesirable_weight",
    "kto_desirable_weight": "desirable_weight",
    "kto_undesirable_weight": "undesirable_weight",
    "additional_target": "lora_modules_to_save",
    "peft_use_dora": "use_dora",
    "peft_use_rslora": "use_rslora",
    "val_size": "eval_size",
    "val_set_size": "eval_size",
    "ppo_epochs": "num_iterations",
}

_REFERENCE = (
    "the reference is the base model with its adapter switched off, and only losses that need a reference use it"
)
_LENGTH = "`max_length` limits prompt and completion together"
_PADDING = "the data collator does the padding"
_LOGITS = "the full logits are never built"
_INIT = "LoRA starts with PEFT's default, whose product is zero, so that the policy starts as the base"
_LAUNCH = "launch with `accelerate launch {} -m trl_ext run RECIPE`"

GONE: dict[str, str | tuple[str, ...]] = {
    # The second is for methods that sample completions and have no `max_length`.
    "max_prompt_length": (
        f"{_LENGTH}. Remove it",
        "prompts are never cut, and `max_completion_length` limits the completions that are sampled. Remove it",
    ),
    "max_completion_length": f"{_LENGTH}. Remove it",
    "max_target_length": f"{_LENGTH}. Remove it",
    "generate_during_eval": "evaluation samples no completions. Remove it",
    "force_use_ref_model": f"{_REFERENCE}. Remove it",
    "model_adapter_name": f"{_REFERENCE}. Remove it",
    "ref_adapter_name": f"{_REFERENCE}. Remove it",
    "ref_model": f"{_REFERENCE}. Remove it",
    "ref_model_name_or_path": f"{_REFERENCE}. Remove it",
    "ref_model_init_kwargs": f"{_REFERENCE}. Remove it",
    "is_encoder_decoder": "only decoder-only models are supported. Remove it",
    "label_pad_token_id": f"{_PADDING}. Remove it",
    "padding_value": f"{_PADDING}. Remove it",
    "use_logits_to_keep": f"{_LOGITS}. Remove it",
    "use_liger_loss": f"{_LOGITS}. Remove it",
    "base_model_attribute_name": "TRL finds the backbone itself. Remove it",
    "tools": "TRL takes tools from a `tools` column of the dataset. Remove it",
    "overwrite_output_dir": "give another `output_dir`, or `resume_from_checkpoint: true`",
    "save_safetensors": "weights are always saved as safetensors. Remove it",
    "half_precision_backend": "`bf16` or `fp16` choose the precision. Remove it",
    "fp16_opt_level": "`bf16` or `fp16` choose the precision. Remove it",
    "use_mps_device": "the device is found automatically. Remove it",
    "include_tokens_per_second": "transformers no longer has this setting. Remove it",
    "auto_insert_empty_system_msg": "the chat template decides about system messages. Remove it",
    "template": "the tokenizer's own chat template is used. Remove it",
    "create_new_adapter": "an adapter in `model_name_or_path` is trained on, and a base model gets a new one. Remove it",
    "ref_model_adapters": f"{_REFERENCE}. Remove it",
    "ref_model_quantization_bit": f"{_REFERENCE}. Remove it",
    "use_unsloth": "Unsloth is not used. Remove it",
    "whiten_rewards": "`normalize_advantages` normalises advantages instead of rewards. Remove it",
    "ppo_whiten_rewards": "`normalize_advantages` normalises advantages instead of rewards. Remove it",
    "ppo_score_norm": "rewards are not normalised by running statistics; `reward_clip_range` limits them. Remove it",
    "accelerate_config": _LAUNCH.format("--config_file FILE"),
    "config_file": _LAUNCH.format("--config_file FILE"),
}

COMPUTED: dict[str, Callable[[Any], str]] = {
    "warmup_ratio": lambda value: (
        f"`warmup_steps` takes a share of the steps too. Write {line('warmup_steps', value)}"
    ),
    "rpo_alpha": lambda value: f"to add the SFT loss, write {line('loss', {'dpo': 1, 'sft': value})}",
    "dpo_ftx": lambda value: _with_sft(value),
    "pref_ftx": lambda value: _with_sft(value),
    "kto_ftx": lambda value: (
        "the SFT loss reads pairs, so `loss: kto` cannot be mixed with it. Remove it" if value else _with_sft(0)
    ),
    # Axolotl passes it to the beta of TRL's ORPO: the weight of the odds-ratio term.
    "orpo_alpha": lambda value: (
        f"the weight of ORPO's odds-ratio term is its beta. Write {line('loss', 'orpo')} and {line('beta', value)}"
    ),
    "init_lora_weights": lambda value: _initialisation(value),
    "pissa_init": lambda on: _initialisation("pissa" if on else True),
    "adapter_name_or_path": lambda value: _continued(value),
    "lora_model_dir": lambda value: _continued(value),
    "lora_target": lambda value: f"write {line('lora_target_modules', 'all-linear' if value == 'all' else value)}",
    "lora_target_linear": lambda on: _when(on, line("lora_target_modules", "all-linear")),
    "reward_model": lambda value: (
        f"write {line('reward_funcs', [value])} for a sequence classifier, or {line('reward_adapter', value)} for an adapter"
    ),
    "ppo_target": lambda value: f"write {line('kl_controller', 'adaptive')} and {line('kl_target', value)}",
    "flash_attn": lambda kind: _attention(kind),
    "flash_attention": lambda on: _when(on, line("attn_implementation", "flash_attention_2")),
    "sft_weight": lambda value: f"to add the SFT loss, write {line('loss', {'simpo': 1, 'sft': value})}",
    "use_flash_attention_2": lambda on: _when(on, line("attn_implementation", "flash_attention_2")),
    "group_by_length": lambda _: "rows are packed or sorted by length, so there is no padding to save. Remove it",
    "adafactor": lambda on: _when(on, line("optim", "adafactor")),
    "reference_free": lambda on: f"{_REFERENCE}. " + (f"Write {line('loss', 'simpo')}" if on else "Remove it"),
    "quantization_bit": lambda bits: (
        f"write {line('load_in_8bit' if str(bits) == '8' else 'load_in_4bit', True)} and {line('use_peft', True)}"
    ),
    "finetuning_type": lambda kind: _when(kind == "lora", line("use_peft", True)),
    "adapter": lambda kind: (
        f"write {line('use_peft', True)}" + (f" and {line('load_in_4bit', True)}" if kind == "qlora" else "")
    ),
    "gradient_checkpointing_use_reentrant": lambda value: (
        f"write {line('gradient_checkpointing_kwargs', {'use_reentrant': value})}"
    ),
    "logging_dir": lambda value: f"write {line('env', {'TENSORBOARD_LOGGING_DIR': value})}",
    "stage": lambda value: _stage(value),
    "dataset_mixer": lambda value: _mixture(value),
    "dataset_mixture": lambda value: _mixture(value),
    "dataset_splits": lambda value: _splits(value),
    "num_processes": lambda value: _LAUNCH.format(f"--multi_gpu --num_processes {shown_text(str(value))}"),
}


STANDS_FOR = RENAMED | {"dataset_mixer": "dataset_name", "dataset_mixture": "dataset_name"}
"""The setting whose value each old key gives, where there is one."""


def remedies(key: str, value: Any) -> tuple[str, ...]:
    """What to write instead of a key that is not a setting, each the end of a sentence. The first that suits a method is for it."""
    if key in RENAMED:
        return (f"write {line(RENAMED[key], value)}",)
    found = COMPUTED[key](value) if key in COMPUTED else GONE.get(key, ())
    return (found,) if isinstance(found, str) else found


def line(key: str, value: Any) -> str:
    """``key: value`` as one line of YAML in backquotes, without the value if that needs several lines."""
    flow = reader.write({key: value}, flow=True).strip()[1:-1]
    return f"`{flow}`" if "\n" not in flow and len(flow) <= LONGEST_LINE else f"`{key}: …`"


def _when(on: Any, instead: str) -> str:
    return f"write {instead}" if on else "that is the default. Remove it"


def _with_sft(weight: Any) -> str:
    if not weight:
        return "no SFT loss is added unless `loss` says so. Remove it"
    return f"to add the SFT loss, write {line('loss', {'dpo': 1, 'sft': weight})}, with your loss in place of dpo"


def _initialisation(value: Any) -> str:
    if value in (True, "gaussian"):
        return f"{_INIT}. Remove it"
    return f"{_INIT}. Other initialisations, such as PiSSA and LoftQ, change the base's weights, and the base is the reference. Remove it"


def _continued(value: Any) -> str:
    adapters = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    if len(adapters) > 1:
        return "one adapter can be trained on. Merge the others into the base model first, and name the result in `model_name_or_path`"
    return (
        f"to train this adapter further, write {line('model_name_or_path', adapters[0] if adapters else value)}. Its base model is "
        "named in the adapter"
    )


def _attention(kind: Any) -> str:
    kinds = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}
    return (
        f"write {line('attn_implementation', kinds[kind])}"
        if isinstance(kind, str) and kind in kinds
        else "that is the default. Remove it"
    )


def _stage(value: Any) -> str:
    trainer = {"rm": "reward", "sft": "sft", "ppo": "ppo"}.get(str(value))
    return f"write {line('trainer', trainer)}" if trainer else "`loss` chooses what is trained. Remove it"


def _mixture(value: Any) -> str:
    """The alignment handbook's {name: share}, or its list with `id`s, as `dataset_name` or `datasets`."""
    if isinstance(value, dict) and isinstance(value.get("datasets"), list):
        renamed = {"id": "path", "config": "name", "weight": "fraction"}
        entries = [{renamed.get(k, k): v for k, v in dict(entry).items()} for entry in value["datasets"]]
    elif isinstance(value, dict) and len(value) == 1:
        return f"write {line('dataset_name', next(iter(value)))}"
    elif isinstance(value, dict):
        entries = [{"path": name, "fraction": share} for name, share in value.items()]
    else:
        return f"write `dataset_name`, or {line('datasets', [{'path': 'NAME', 'split': 'train'}])}"
    return f"write {line('datasets', entries)}"


def _splits(value: Any) -> str:
    splits = value if isinstance(value, list) else [value]
    keys = ("dataset_train_split", "dataset_test_split")
    return "write " + " and ".join(line(key, split) for key, split in zip(keys, splits, strict=False))
