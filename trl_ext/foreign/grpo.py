"""Give the settings of `trl.GRPOConfig` that trl-ext does not have, and say what PPO has in their place.

GRPO compares the completions of a prompt with each other; PPO here compares a completion with a critic. Settings that both have
are read as TRL's RLOO trainer reads them.
"""

from trl_ext.foreign.dialect import Dialect, Reader
from trl_ext.foreign.meaning import Meaning

_LOSS = "it belongs to a loss of GRPO, and PPO has one loss, which clips the ratio by `epsilon` and `epsilon_high`"
_ENTROPY = "no entropy bonus is added to the loss; `kl_coef` keeps the policy near the reference"
_CAP = "`vllm_importance_sampling_clip_max` is its newer name"

_WITH_PPO: dict[str, str] = {
    "multi_objective_aggregation": "the reward is the sum of all sources, weighted by `reward_weights`",
    "off_policy_mask_threshold": "no completion is masked for its KL; `epsilon` limits how far the policy moves",
    "use_bias_correction_kl": (
        "`kl_estimator` and `kl_placement` say how the KL is estimated. The defaults, k1 in the reward, give the gradient of the "
        "reverse KL"
    ),
    "top_entropy_quantile": "the loss is over all tokens of a completion",
    "max_tool_calling_iterations": "completions are sampled in a single turn, without tools",
    "cast_lm_head_to_fp32": "the LM head keeps the dtype of the model, which `dtype` sets",
    "log_completions_hub_repo": "`log_completions: true` prints completions, and none are uploaded",
    **dict.fromkeys(
        ("sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
        _LOSS,
    ),
    **dict.fromkeys(
        ("entropy_coef", "use_adaptive_entropy", "entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
        _ENTROPY,
    ),
    "vllm_importance_sampling_cap": _CAP,
}  # fmt: skip

_OTHERWISE = Meaning(reason="it is a setting of GRPO, which trl-ext does not have")


def _reader(reason: str) -> Reader:
    """What a key means: the reason for PPO, and for every other training that GRPO is not here."""
    with_ppo = Meaning(reason=reason)
    return lambda value, values: with_ppo if values.get("trainer") == "ppo" else _OTHERWISE


GRPO = Dialect("TRL's GRPO", {key: _reader(reason) for key, reason in _WITH_PPO.items()})

TRAINERS = {
    "grpo": (
        "is grpo, which trl-ext does not have. Write `trainer: ppo` to learn from the same prompts and rewards with a critic in "
        "place of the group's mean, or `trainer: online` for a preference loss on the best and worst completion of a group. For "
        "GRPO itself use TRL's GRPOTrainer."
    ),
    "rloo": (
        "is rloo, which trl-ext does not have. Write `trainer: ppo`, which takes the settings of `trl.RLOOConfig` and has a "
        "critic in place of the mean of the other completions. For RLOO itself use TRL's RLOOTrainer."
    ),
}
"""Trainers of TRL with the data and most of the settings of PPO, with the rest of a sentence about each."""
