"""Give what each key of LLaMA-Factory means in a recipe, and its defaults. One file per part of its arguments."""

from typing import Any

from trl_ext.foreign.dialect import Dialect, Reader, Values
from trl_ext.foreign.llama_factory import adapter, data, model, objective, optimizer, ppo, rows
from trl_ext.foreign.llama_factory.file_values import STAGES, continues_adapter, tuning
from trl_ext.foreign.llama_factory.no_training import NO_TRAINING
from trl_ext.foreign.llama_factory.v1 import LLAMA_FACTORY_V1
from trl_ext.foreign.meaning import Meaning

__all__ = ["LLAMA_FACTORY", "LLAMA_FACTORY_V1", "NO_TRAINING"]

MARKS = {
    "lora_rank", "lora_target", "cutoff_len", "template", "pref_loss", "pref_beta", "pref_ftx", "dataset_dir", "quantization_bit",
    "flash_attn", "plot_loss", "kto_chosen_weight", "kto_rejected_weight", "simpo_gamma", "preprocessing_num_workers",
    "overwrite_cache", "max_samples", "additional_target", "create_new_adapter", "use_unsloth", "val_size", "ppo_epochs",
    "enable_liger_kernel", "disable_gradient_checkpointing", "adapter_name_or_path", "loraplus_lr_ratio", "double_quantization",
}  # fmt: skip
"""Keys that tell its files from those of other programs, if there are two of them."""
OF_OTHERS = {"use_peft", "lora_r", "loss", "loss_type", "variants", "base_model", "dataset_mixer", "dataset_mixture"}
"""Keys of recipes and of other programs, which none of its files has."""


def _is_written_in(values: Values) -> bool:
    if OF_OTHERS & set(values):
        return False
    is_staged = isinstance(values.get("stage"), str) and values["stage"] in STAGES
    return is_staged or "finetuning_type" in values or len(MARKS & set(values)) >= 2


def _defaults(values: Values) -> dict[str, Any]:
    """Its defaults that another program may not share, as far as the stage and the kind of adapter read them."""
    kind = str(values.get("stage") or OF_TRAINER.get(str(values.get("trainer")), "sft"))
    found = ALWAYS | {"stage": kind}
    if tuning(values) != "full" and not continues_adapter(values):
        found |= {"lora_rank": 8, "lora_alpha": None, "lora_dropout": 0.0, "lora_target": "all"}
    if tuning(values) == "full" and not values.get("fp16") and not values.get("pure_bf16"):
        found |= {"bf16": False}  # all weights are then trained in float32; an adapter's base is in 16 bits anyway
    if str(values.get("quantization_bit")) == "4":
        found |= {"double_quantization": True}
    return found | OF_STAGE.get(kind, {}) | ({"simpo_gamma": 0.5} if values.get("pref_loss") == "simpo" else {})


ALWAYS: dict[str, Any] = {"finetuning_type": "lora", "cutoff_len": 2048, "learning_rate": 5e-5}
OF_TRAINER = {"dpo": "dpo", "kto": "kto", "ppo": "ppo", "reward": "rm", "rm": "rm", "sft": "sft"}
"""The stage of a file that names none, by `--trainer`."""
OF_STAGE: dict[str, dict[str, Any]] = {
    "dpo": {"pref_beta": 0.1},
    "kto": {"pref_beta": 0.1},
    "orpo": {"orpo_beta": 0.1},
    "pt": {"packing": None},
    "ppo": {
        "ppo_epochs": 4, "ppo_target": 6.0, "temperature": 0.95, "top_p": 0.7, "top_k": 50, "max_new_tokens": 1024,
        "reward_model_type": "lora",
    },
}  # fmt: skip


def _of_its_files(meaning: str | Meaning | Reader) -> Reader:
    """For keys that other programs have too: they mean this in files of LLaMA-Factory only."""

    def read(value: Any, values: Values) -> Any:
        if not _is_written_in(values):
            return ()
        if isinstance(meaning, str):
            return Meaning({meaning: value}) if value is not None else ()
        return meaning if isinstance(meaning, Meaning) else meaning(value, values)

    return read


SHARED = {
    "dataset", "eval_dataset", "cache_dir", "max_new_tokens", "do_sample", "num_beams", "length_penalty", "skip_special_tokens",
    "device_map", "compute_dtype", "fp8", "task", "task_dir", "lang", "n_shot", "save_dir", "download_mode", "batch_size",
    "generation_config", "mixed_precision", "sequence_parallel", "context_parallel_size", "extra_config", "add_tokens",
    "add_special_tokens", "rope_scaling", "default_system", "buffer_size", "mix_strategy", "enable_thinking", "master_addr",
    "master_port", "reward_model", "ref_model", "overwrite_output_dir", "orpo_beta", "kto_beta", "dpo_beta", "dpo_label_smoothing",
}  # fmt: skip
"""Keys that other programs have too."""

_MEANS = {
    **model.MEANS,
    **adapter.MEANS,
    **data.MEANS,
    **rows.MEANS,
    **objective.MEANS,
    **ppo.MEANS,
    **optimizer.MEANS,
}

LLAMA_FACTORY = Dialect(
    "LLaMA-Factory",
    {key: _of_its_files(meaning) if key in SHARED else meaning for key, meaning in _MEANS.items()},
    _is_written_in,
    _defaults,
)
