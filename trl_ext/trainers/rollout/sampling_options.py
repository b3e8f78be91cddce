"""Add settings about the weights that completions are sampled from to the configurations of trainers that sample."""

from dataclasses import dataclass, field


@dataclass
class SamplingOptions:
    """Settings about the weights that completions are sampled from, and about the correction for their rounding.

    Those about the correction have the names, and except for the mode the defaults, of `trl.GRPOConfig`.
    """

    sampling_weights: str = field(
        default="auto",
        metadata={
            "help": "Weights that completions are sampled from. `merged`: a copy of the base with the adapter merged in, in 16 bits "
            "(on a CPU in 32 bits), refreshed before each rollout; sampling from it is faster. `adapter`: the base with its "
            "adapter, without additional memory. `auto`: merged if the memory plan allows it. Log-probabilities are always "
            "those of the base with its adapter.",
            "choices": ["auto", "adapter", "merged"],
        },
    )
    vllm_importance_sampling_correction: bool = field(
        default=True,
        metadata={
            "help": "Weight the policy loss by the importance ratio of the trained policy and the weights that sampled, where these "
            "are computed in another way: by vLLM, or with `sampling_weights: merged`."
        },
    )
    vllm_importance_sampling_mode: str = field(
        default="token_truncate",
        metadata={
            "help": "One ratio per token (`token_…`) or per completion (`sequence_…`). `…_truncate` moves ratios outside the bounds "
            "to the bounds, `…_mask` sets them to 0.",
            "choices": ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"],
        },
    )
    vllm_importance_sampling_clip_max: float | None = field(
        default=3.0,
        metadata={"help": "Upper bound of the importance ratio; null for none."},
    )
    vllm_importance_sampling_clip_min: float | None = field(
        default=None,
        metadata={"help": "Lower bound of the importance ratio; null for none."},
    )
