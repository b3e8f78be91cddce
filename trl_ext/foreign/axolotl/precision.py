"""Give axolotl's keys of number formats, attention and recomputation. Most change speed and memory, not what is trained."""

from typing import Any

from trl_ext.foreign.axolotl.adapter import has_adapter
from trl_ext.foreign.axolotl.kind import LOSSES, is_off, kind, renamed, unless_off
from trl_ext.foreign.common import DEFAULT, UNSET
from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning

LOADED = "{} loads the weights in {} too"
MEMORY = Meaning(reason="it changes memory and time, not what is trained")


def _bf16(value: Any, values: Values) -> Meaning:
    """Mixed precision in bfloat16 is the default here too, where the GPU has it; the dtype of the weights is another."""
    if value == "auto" and (values.get("fp16") or values.get("float16")):
        return Meaning(reason="`fp16` is on, so it is off")
    if value == "full":
        return Meaning({"bf16_full_eval": True, "dtype": "bfloat16"}, LOADED.format("axolotl", "bfloat16"))
    if value:
        return Meaning(
            {"dtype": "bfloat16"}, f"training in bfloat16 is the default. {LOADED.format('Axolotl', 'bfloat16')}"
        )
    return UNSET if values.get("bfloat16") else Meaning({"bf16": False})


def _fp16(value: Any, values: Values) -> Meaning:
    if not value or values.get("bf16") not in (None, False, "auto"):
        return UNSET if value is None else DEFAULT
    adapter = {"dtype": "float16"} if has_adapter(values) else {}
    return Meaning({"fp16": True} | adapter, LOADED.format("axolotl", "float16") if adapter else "")


def _whole(name: str, switch: str) -> Reader:
    """Training without mixed precision."""
    meaning = Meaning(
        {switch: True, "dtype": name},
        "training always computes in mixed precision",
        f"operations that mixed precision computes in float32 are not computed in {name}",
    )
    return unless_off(meaning)


def _checkpointing(value: Any, values: Values) -> Meaning:
    if value is None:
        return UNSET
    if isinstance(value, str):
        return Meaning(
            {"gradient_checkpointing": True}, "activations are recomputed, and not moved to the CPU or the disk"
        )
    return Meaning({"gradient_checkpointing": bool(value)})


def _attention(name: str | None) -> Reader:
    """An implementation of attention: a switch that stands for `name`, or a name itself."""

    def read(value: Any, values: Values) -> Meaning:
        if is_off(value):
            return UNSET if value is None else DEFAULT
        wanted = name or str(value)
        if kind(values) in LOSSES:
            return Meaning(reason="packed rows use their own attention kernels")
        if wanted in ("eager", "sdpa", "flex_attention"):
            return Meaning({"attn_implementation": wanted})
        packages = {"flash_attention_2": "flash-attn", "flash_attention_3": "flash-attn-3"}
        if wanted in packages or "/" in wanted:
            needed = f"the package {packages[wanted]}" if wanted in packages else "the package kernels"
            return Meaning(
                reason=f"PyTorch's own attention computes the same, and {wanted} needs {needed}",
                advice=f"if that is installed, write `attn_implementation: {wanted}`",
            )
        return Meaning(reason=f"{wanted} is not available. PyTorch's own attention computes the same up to rounding")

    return read


def _compile(value: Any, values: Values) -> Meaning:
    if is_off(value):
        return UNSET if value is None else DEFAULT
    return Meaning(reason="compilation changes speed, not what is trained")


def _tf32(value: Any, values: Values) -> Meaning:
    if value in (None, False, "auto"):
        return UNSET if value is None else DEFAULT
    if values.get("bf16", "auto") is not False:
        return Meaning(
            reason="with bfloat16 the matrix products are not in float32, and TF32 is about those in float32"
        )
    return Meaning({"tf32": True})


def _liger(value: Any, values: Values) -> Meaning:
    return Meaning(reason="fused kernels change speed and memory, not what is trained")


def defaults(values: Values) -> dict[str, Any]:
    """Axolotl trains in bfloat16 where the GPU has it."""
    return {} if "bf16" in values or values.get("fp16") or values.get("float16") else {"bf16": "auto"}


FUSED = (
    "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel", "liger_rope", "liger_rms_norm",
    "liger_rms_norm_gated", "liger_layer_norm", "liger_swiglu", "liger_glu_activation", "liger_cross_entropy",
    "liger_fused_linear_cross_entropy", "liger_use_token_scaling", "cut_cross_entropy", "chunked_cross_entropy",
    "chunked_cross_entropy_num_chunks", "flash_attn_cross_entropy", "flash_attn_fuse_mlp", "flash_attn_rms_norm", "flash_optimum",
    "fused_attn_kernel", "use_kernels", "use_scattermoe", "use_sonicmoe", "use_dsv4_kernels", "use_glm_dsa_kernels",
    "dpo_use_liger_kernel", "unsloth_cross_entropy_loss", "unsloth_lora_mlp", "unsloth_lora_qkv", "unsloth_lora_o",
    "unsloth_rms_norm", "unsloth_rope",
)  # fmt: skip
OF_ATTENTION = (
    "flex_attn_compile_kwargs", "gemma4_hybrid_attn_impl", "large_head_attention", "flash_attn_d512", "sdpa_varlen",
    "experts_implementation", "llama4_linearized_experts", "expert_backend", "moe_grouped_backend", "moe_dequant_chunk_size",
    "moe_bnb_fast", "dsv4_fp8_lora_kernel", "dsv4_shared_mlp_lora_kernel",
)  # fmt: skip
OF_MEMORY = (
    "selective_checkpointing", "activation_offloading", "layer_offloading", "tiled_mlp", "tiled_mlp_num_shards",
    "tiled_mlp_use_original_mlp", "low_cpu_mem_usage", "max_memory", "gpu_memory_limit", "device_map", "embeddings_skip_upcast",
    "gc_steps", "gc_collect_steps", "torch_compile_options", "torch_compile_backend", "torch_compile_mode", "deepcompile",
    "experimental_skip_move_to_device", "batch_flattening", "dpo_padding_free", "pad_to_sequence_len", "pad_to_multiple_of",
)  # fmt: skip

MEANS: dict[str, str | Meaning | Reader] = {
    "bf16": _bf16,
    "fp16": _fp16,
    "bfloat16": _whole("bfloat16", "bf16"),
    "float16": _whole("float16", "fp16"),
    "float32": Meaning(reason="axolotl does not read it"),
    "tf32": _tf32,
    "fp8": unless_off(Meaning(reason="training in 8-bit floats is not available", changes="it computes in bfloat16")),
    "fp8_enable_fsdp_float8_all_gather": Meaning(reason="only `fp8` reads it"),
    "gradient_checkpointing": _checkpointing,
    "attn_implementation": _attention(None),
    "flash_attention": _attention("flash_attention_2"),
    "sdp_attention": _attention("sdpa"),
    "flex_attention": _attention("flex_attention"),
    "eager_attention": _attention("eager"),
    "xformers_attention": _attention("xformers"),
    "sage_attention": _attention("sage"),
    "s2_attention": unless_off(Meaning(reason="axolotl no longer has it either")),
    "torch_compile": _compile,
    "torch_empty_cache_steps": renamed("torch_empty_cache_steps"),
    **dict.fromkeys(FUSED, unless_off(_liger)),
    **dict.fromkeys(OF_ATTENTION, unless_off(MEMORY)),
    **dict.fromkeys(OF_MEMORY, unless_off(MEMORY)),
    "scaling_softmax": unless_off(
        Meaning(reason="scaled softmax is not available", changes="attention scores are not scaled by the length")
    ),
    "scaling_softmax_factor": Meaning(reason="only `scaling_softmax` reads it"),
    "scaling_softmax_bias": Meaning(reason="only `scaling_softmax` reads it"),
    "fp32_norms": unless_off(MEMORY),
    "fp32_norm_classes": unless_off(MEMORY),
}
"""Every key of this part."""
