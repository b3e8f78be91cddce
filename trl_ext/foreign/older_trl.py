"""Give the settings of older releases of transformers and TRL."""

from typing import Any

from trl_ext.foreign.common import DEFAULT, REFERENCE, UNSET, initialisation, of, when, with_sft
from trl_ext.foreign.dialect import Dialect, Values
from trl_ext.foreign.meaning import Meaning
from trl_ext.methods import METHODS

_PADDING = Meaning(reason="the data collator does the padding")
_LOGITS = Meaning(reason="the full logits are never built")
_STOP = Meaning(reason="completions end at the end tokens of the model")
_ROWS = Meaning(reason="rows are as long as the free memory allows, and `row_tokens` sets their length")
_PRECISION = Meaning(reason="`bf16` or `fp16` choose the precision")


def _length(value: Any, values: Values, part: str = "prompt") -> Meaning:
    """A limit of a part of the row."""
    method = METHODS.get(str(values.get("trainer")))
    if method is not None and method.samples_completions:
        return Meaning(
            reason="prompts are never cut, and `max_completion_length` limits the completions that are sampled",
            changes="" if value is None else "a prompt of any length is trained on",
        )
    return Meaning(
        reason="`max_length` limits prompt and completion together",
        changes="" if value is None else f"a long {part} is no longer cut on its own",
    )


def _completion_length(value: Any, values: Values) -> Meaning:
    """A setting of methods that sample completions. Other files of older releases have it too."""
    method = METHODS.get(str(values.get("trainer")))
    is_here = method is not None and method.samples_completions
    return Meaning({"max_completion_length": value}) if is_here else _target_length(value, values)


def _target_length(value: Any, values: Values) -> Meaning:
    return _length(value, values, "completion")


def _packing(strategy: Any) -> Meaning:
    if strategy == "ffd":
        return Meaning({"packing_strategy": "bfd"}, "rows are packed by best fit", "the rows are others")
    return Meaning({"packing_strategy": strategy}) if strategy is not None else UNSET


def _warmup(ratio: Any) -> Meaning:
    return Meaning({"warmup_steps": ratio}, "`warmup_steps` takes a share of the steps too")


def _tensorboard(folder: Any) -> Meaning:
    return Meaning({"env": {"TENSORBOARD_LOGGING_DIR": folder}}) if folder else DEFAULT


def _level_of_kl(is_of_tokens: Any) -> Meaning:
    return Meaning({"kl_level": "token" if is_of_tokens else "sequence"})


def _reference_free(on: Any) -> Meaning:
    if not on:
        return REFERENCE
    return Meaning(
        reason="DPO without a reference compares the log-probabilities of the policy alone. No loss here does that",
        changes="the loss of this recipe is trained",
        advice="remove it. Losses without a reference are `orpo`, `simpo`, `cpo` and `sft`, and each is another loss",
    )


OLDER_TRL = Dialect(
    "an older release of TRL",
    {
        # transformers
        "evaluation_strategy": "eval_strategy",
        "push_to_hub_model_id": "hub_model_id",
        "push_to_hub_token": "hub_token",
        "per_gpu_train_batch_size": "per_device_train_batch_size",
        "per_gpu_eval_batch_size": "per_device_eval_batch_size",
        "no_cuda": "use_cpu",
        "warmup_ratio": of(_warmup),
        "logging_dir": of(_tensorboard),
        "adafactor": when({"optim": "adafactor"}),
        "group_by_length": Meaning(reason="rows are packed or sorted by length, so there is no padding to save"),
        "overwrite_output_dir": Meaning(
            reason="a run never overwrites another: a folder that exists gets a number",
            advice="remove it. To continue a run, give `resume_from_checkpoint: true`",
        ),
        "save_safetensors": Meaning(reason="weights are always saved as safetensors"),
        "half_precision_backend": _PRECISION,
        "fp16_opt_level": _PRECISION,
        "use_mps_device": Meaning(reason="the device is found automatically"),
        "include_tokens_per_second": Meaning(reason="transformers no longer has this setting"),
        # TRL
        "torch_dtype": "dtype",
        "max_seq_length": "max_length",
        "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
        "simpo_gamma": "gamma",
        "use_flash_attention_2": when({"attn_implementation": "flash_attention_2"}),
        "max_prompt_length": _length,
        "max_completion_length": _completion_length,
        "packing_strategy": of(_packing),
        "max_target_length": _target_length,
        "rpo_alpha": with_sft,
        "reference_free": of(_reference_free),
        "init_lora_weights": of(initialisation),
        "generate_during_eval": Meaning(reason="evaluation samples no completions"),
        "force_use_ref_model": REFERENCE,
        "model_adapter_name": REFERENCE,
        "ref_adapter_name": REFERENCE,
        "ref_model": REFERENCE,
        "ref_model_name_or_path": REFERENCE,
        "ref_model_init_kwargs": REFERENCE,
        "is_encoder_decoder": Meaning(reason="only decoder-only models are supported"),
        "label_pad_token_id": _PADDING,
        "padding_value": _PADDING,
        "use_logits_to_keep": _LOGITS,
        "use_liger_loss": _LOGITS,
        "base_model_attribute_name": Meaning(reason="TRL finds the backbone itself"),
        "tools": Meaning(reason="TRL takes tools from a `tools` column of the dataset"),
        "gradient_checkpointing_use_reentrant": of(
            lambda value: Meaning({"gradient_checkpointing_kwargs": {"use_reentrant": value}})
        ),
        # RLOO and PPO before TRL 0.22
        "rloo_k": "num_generations",
        "normalize_advantage": "normalize_advantages",
        "token_level_kl": of(_level_of_kl),
        "exp_name": "run_name",
        "total_episodes": Meaning(
            reason="it counts completions",
            advice="set `max_steps` or `num_train_epochs`. A rollout has `per_device_train_batch_size` times "
            "`gradient_accumulation_steps` completions",
        ),
        "num_mini_batches": Meaning(
            reason="a rollout is learnt from in `steps_per_generation` micro-batches, of which "
            "`gradient_accumulation_steps` are an optimizer step"
        ),
        "local_rollout_forward_batch_size": _ROWS,
        "num_sample_generations": Meaning(reason="`log_completions: true` prints completions of every rollout"),
        "stop_token": _STOP,
        "stop_token_id": _STOP,
        "sft_model_path": Meaning(
            reason="policy and reference start from `model_name_or_path`", advice="write the folder there"
        ),
        # GRPO
        "vllm_guided_decoding_regex": "vllm_structured_outputs_regex",
        "vllm_max_model_len": "vllm_max_model_length",
        "vllm_device": Meaning(
            reason="`vllm_mode` says where vLLM runs: `colocate` on the GPUs that train, or `server`"
        ),
        "vllm_dtype": Meaning(reason="vLLM computes in the dtype of the weights that it receives"),
        "vllm_enable_prefix_caching": Meaning(reason="vLLM caches prefixes by default"),
        "wandb_log_unique_prompts": "log_unique_prompts",
    },
)
