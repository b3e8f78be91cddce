"""List configurations of the recipes' models and a few others, so that a plan needs no network.

They have only the fields that memory depends on. A test checks that the parameter count of each equals the published one.
Any other model is planned from its own config.json, in a folder or on the Hub.
"""

from typing import Any


def _text(
    model_type: str,
    architecture: str,
    vocabulary: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    head_width: int,
    is_tied: bool,
    **more: Any,
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": head_width,
        "tie_word_embeddings": is_tied,
        **more,
    }


def _llama(vocabulary: int) -> dict[str, Any]:
    return _text("llama", "LlamaForCausalLM", vocabulary, 4096, 14336, 32, 32, 8, 128, False)


def _mistral(vocabulary: int, window: int | None) -> dict[str, Any]:
    return _text(
        "mistral", "MistralForCausalLM", vocabulary, 4096, 14336, 32, 32, 8, 128, False, sliding_window=window
    )


def _qwen3(hidden: int, intermediate: int, layers: int, heads: int, is_tied: bool) -> dict[str, Any]:
    return _text("qwen3", "Qwen3ForCausalLM", 151936, hidden, intermediate, layers, heads, 8, 128, is_tied)


_GEMMA_3_12B = _text(
    "gemma3_text", "Gemma3ForCausalLM", 262208, 3840, 15360, 48, 16, 8, 256, True, sliding_window=1024
)
_MINISTRAL_3_8B = _text("ministral3", "Ministral3ForCausalLM", 131072, 4096, 14336, 34, 32, 8, 128, False)

MODELS: dict[str, dict[str, Any]] = {
    "alignment-handbook/zephyr-7b-sft-full": _mistral(32000, window=4096),
    "allenai/Llama-3.1-Tulu-3-8B-SFT": _llama(128264),
    "allenai/OLMo-2-1124-7B-SFT": _text("olmo2", "Olmo2ForCausalLM", 100352, 4096, 11008, 32, 32, 32, 128, False),
    "google/gemma-2-9b-it": _text(
        "gemma2",
        "Gemma2ForCausalLM",
        256000,
        3584,
        14336,
        42,
        16,
        8,
        256,
        True,
        sliding_window=4096,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
    ),
    "google/gemma-3-12b-it": {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "tie_word_embeddings": True,
        "mm_tokens_per_image": 256,
        "text_config": _GEMMA_3_12B,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 896,
            "patch_size": 14,
            "vision_use_head": False,
        },
    },
    "HuggingFaceTB/SmolLM3-3B": _text("smollm3", "SmolLM3ForCausalLM", 128256, 2048, 11008, 36, 16, 4, 128, True),
    "ibm-granite/granite-3.1-3b-a800m-instruct": _text(
        "granitemoe",
        "GraniteMoeForCausalLM",
        49155,
        1536,
        512,
        32,
        24,
        8,
        64,
        True,
        num_local_experts=40,
        num_experts_per_tok=8,
    ),
    "meta-llama/Llama-3.1-8B": _llama(128256),
    "meta-llama/Llama-3.1-8B-Instruct": _llama(128256),
    "mistralai/Ministral-3-8B-Instruct-2512-BF16": {
        "model_type": "mistral3",
        "architectures": ["Mistral3ForConditionalGeneration"],
        "tie_word_embeddings": False,
        "spatial_merge_size": 2,
        "multimodal_projector_bias": False,
        "text_config": _MINISTRAL_3_8B,
        "vision_config": {
            "model_type": "pixtral",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "head_dim": 64,
            "image_size": 1540,
            "patch_size": 14,
            "num_channels": 3,
        },
    },
    "mistralai/Mistral-7B-v0.3": _mistral(32768, window=None),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": _text(
        "mixtral",
        "MixtralForCausalLM",
        32000,
        4096,
        14336,
        32,
        32,
        8,
        128,
        False,
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=None,
    ),
    "openai/gpt-oss-20b": _text(
        "gpt_oss",
        "GptOssForCausalLM",
        201088,
        2880,
        2880,
        24,
        64,
        8,
        64,
        False,
        num_local_experts=32,
        num_experts_per_tok=4,
        sliding_window=128,
    ),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 6144, 28, 16, True),
    "Qwen/Qwen3-4B": _qwen3(2560, 9728, 36, 32, True),
    "Qwen/Qwen3-8B": _qwen3(4096, 12288, 36, 32, False),
    "Qwen/Qwen3-14B": _qwen3(5120, 17408, 40, 40, False),
    "Qwen/Qwen3-30B-A3B": _text(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        151936,
        2048,
        6144,
        48,
        32,
        4,
        128,
        False,
        moe_intermediate_size=768,
        num_experts=128,
        num_experts_per_tok=8,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    ),
}
"""By name on the Hub."""
