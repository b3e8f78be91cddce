"""Read how a LLaMA-Factory file loads and runs the model: attention, number formats, recomputation, tokenizer."""

from typing import Any

from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.llama_factory.file_values import OFF, UNSET, lost, stage, tuning
from trl_ext.foreign.meaning import Meaning

ATTENTION = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}
FREEZE = {"freeze_vision_tower": "vision tower", "freeze_multi_modal_projector": "projector"}


def _attention(kind: Any, values: Values) -> Meaning:
    if kind in (None, False, "auto"):
        return Meaning(reason="transformers chooses the attention, as here")
    kind = "fa2" if kind is True else kind  # of older releases
    if not isinstance(kind, str) or kind not in ATTENTION:
        return Meaning(reason=f"LLaMA-Factory has auto, {', '.join(ATTENTION)}")
    return Meaning({"attn_implementation": ATTENTION[kind]})


def _no_recomputing(on: Any, values: Values) -> Meaning:
    """It turns off what is on by default."""
    return Meaning({"gradient_checkpointing": False}) if on else Meaning(reason="activations are recomputed, as here")


def _reentrant(on: Any, values: Values) -> Meaning:
    if on in (None, True) or values.get("disable_gradient_checkpointing"):
        return Meaning(reason="the gradients are the same")
    return Meaning({"gradient_checkpointing_kwargs": {"use_reentrant": False}})


def _pure_bf16(on: Any, values: Values) -> Meaning:
    if not on:
        return OFF
    settings: dict[str, Any] = {"dtype": "bfloat16"}
    if stage(values) in ("dpo", "kto", "orpo") and tuning(values) != "full":
        return Meaning(settings | {"lora_dtype": "bfloat16"}, "the adapter's weights are in bfloat16 too")
    if tuning(values) == "full":
        return Meaning(settings, "all weights are in bfloat16")
    return Meaning(settings, changes="the adapter's weights are in float32")


def _liger(on: Any, values: Values) -> Meaning:
    return Meaning({"use_liger_kernel": True}) if on else OFF


def _aux_loss(value: Any, values: Values) -> Meaning:
    if value is None:
        return UNSET
    if stage(values) == "rm":
        return Meaning(reason="`trainer: reward` adds no router loss", changes="the router loss is not added")
    return Meaning({"router_aux_loss_coef": value})


def _rope(value: Any, values: Values) -> Meaning:
    if not value:
        return UNSET
    return Meaning(
        reason="the context length is that of the model's config.json, where `rope_parameters` can be changed",
        changes=f"RoPE is not scaled ({value})",
    )


def _frozen_part(key: str) -> Reader:
    def meaning(on: Any, values: Values) -> Meaning:
        is_frozen = on in (None, True)
        if tuning(values) == "full":
            changes = f"if the model has a {FREEZE[key]}, it is trained too" if is_frozen else ""
            return Meaning(reason="`use_peft: false` trains all weights", changes=changes)
        return Meaning(reason="`lora_target_modules` says what gets an adapter")

    return meaning


TOKENS = "the tokenizer and its embeddings stay as they are. Add tokens to the model before training"
OF_PREDICTION = Meaning(reason="it is for inference, so it has no effect on training")
PIXELS = Meaning(
    reason="the model's own processor decides about images, frames and audio",
    changes="their sizes and rates are those of preprocessor_config.json, where they can be changed",
)
TOKEN = Meaning(reason="a token does not belong in a file: log in once with `hf auth login`")

MEANS: dict[str, str | Meaning | Reader] = {
    "flash_attn": _attention,
    "disable_gradient_checkpointing": _no_recomputing,
    "use_reentrant_gc": _reentrant,
    "use_unsloth_gc": Meaning(reason="activations are recomputed without Unsloth, with the same gradients"),
    "pure_bf16": _pure_bf16,
    "enable_liger_kernel": _liger,
    "moe_aux_loss_coef": _aux_loss,
    "rope_scaling": _rope,
    "use_unsloth": Meaning(reason="Unsloth is not used"),
    "upcast_layernorm": lost("weights that are not trained keep their dtype", "layer norms stay in the dtype of the base"),
    "upcast_lmhead_output": Meaning(reason="log-probabilities are computed in float32 anyway"),
    "shift_attn": lost("attention is that of the model", "attention is not shifted (S²-Attn)"),
    "mixture_of_depths": lost("the model is trained as it is", "the model is not converted to a mixture of depths"),
    "train_from_scratch": lost("training starts from the weights of `model_name_or_path`", "weights are not random at the start"),
    "freeze_language_model": lost("an adapter on the language model is what is trained", "the language model is not frozen"),
    **{key: _frozen_part(key) for key in FREEZE},
    "visual_inputs": Meaning(reason="the model's configuration says whether it reads images"),
    # the tokenizer
    "use_fast_tokenizer": Meaning(reason="transformers has fast tokenizers only"),
    "split_special_tokens": lost("special tokens stay whole", "special tokens in the text are not split"),
    "resize_vocab": lost(TOKENS, "the vocabulary is not resized"),
    "add_tokens": lost(TOKENS, "no tokens are added"),
    "add_special_tokens": lost(TOKENS, "no tokens are added"),
    "new_special_tokens_config": lost(TOKENS, "no tokens are added"),
    "init_special_tokens": Meaning(reason="no tokens are added"),
    # loading
    "low_cpu_mem_usage": Meaning(reason="transformers always loads this way"),
    "cache_dir": lambda value, values: UNSET if not value else Meaning(advice=f"set the environment variable HF_HUB_CACHE to {value}"),
    "offload_folder": Meaning(reason="weights are not offloaded"),
    "hf_hub_token": TOKEN,
    **dict.fromkeys(("ms_hub_token", "om_hub_token"), Meaning(reason="models and data come from the Hugging Face Hub or from folders")),
    "print_param_status": Meaning(reason="the log says what is trained"),
    "use_v1_kernels": Meaning(reason="kernels are those of transformers"),
    **dict.fromkeys(
        (
            "infer_backend", "infer_dtype", "use_kv_cache", "vllm_maxlen", "vllm_gpu_util", "vllm_enforce_eager",
            "vllm_max_lora_rank", "vllm_config", "sglang_maxlen", "sglang_mem_fraction", "sglang_tp_size", "sglang_config",
            "sglang_lora_backend",
        ),
        OF_PREDICTION,
    ),
    **dict.fromkeys(
        (
            "image_max_pixels", "image_min_pixels", "image_do_pan_and_scan", "crop_to_patches", "video_max_pixels",
            "video_min_pixels", "video_fps", "video_maxlen", "use_audio_in_video", "audio_sampling_rate",
        ),
        PIXELS,
    ),
    **dict.fromkeys(
        (
            "export_dir", "export_size", "export_device", "export_quantization_bit", "export_quantization_dataset",
            "export_quantization_nsamples", "export_quantization_maxlen", "export_legacy_format", "export_hub_model_id",
        ),
        Meaning(reason="`trl-ext merge RUN --output DIR` exports a run after training"),
    ),
    "use_kt": lost("KTransformers is not used", "experts are not computed on the CPU"),
    **dict.fromkeys(
        (
            "kt_cpu_activation", "kt_weight_path", "kt_non_expert_weight_path", "kt_expert_checkpoint_path",
            "kt_use_lora_experts", "kt_lora_expert_num", "kt_lora_expert_intermediate_size", "kt_config",
        ),
        Meaning(reason="KTransformers is not used"),
    ),
    **dict.fromkeys(
        ("compute_dtype", "device_map", "model_max_length", "block_diag_attn"),
        Meaning(reason="LLaMA-Factory derives it and takes no value for it"),
    ),
}  # fmt: skip
