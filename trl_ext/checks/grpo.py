"""Rules about settings of TRL's GRPO: those that are not reproduced, and combinations with an unexpected effect."""

from collections.abc import Iterator
from functools import partial

from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.rl.grpo_losses import LOSS_TYPES
from trl_ext.support.messages import plain, shown_text

_ENTROPY = "no entropy bonus is added to the loss. `beta` keeps the policy near the reference, and `epsilon_high` above `epsilon` keeps more of its entropy"

NOT_REPRODUCED = {
    "top_entropy_quantile": "the loss is over all tokens of a completion",
    "entropy_coef": _ENTROPY,
    "use_adaptive_entropy": _ENTROPY,
    **dict.fromkeys(("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"), _ENTROPY),
    "off_policy_mask_threshold": "no completion is left out for its KL. `epsilon` and `delta` limit how far the policy moves",
    "max_tool_calling_iterations": "completions are sampled in a single turn, without tools",
    "cast_lm_head_to_fp32": "the LM head keeps the dtype of the model, which `dtype` sets",
    "log_completions_hub_repo": "`log_completions: true` prints completions, and none are uploaded",
}  # fmt: skip
"""Settings of `trl.GRPOConfig` that accept only their default, and why."""

SUMMED_OVER_TOKENS = ("bnpo", "dr_grpo", "dapo", "cispo")
"""Loss types with which a ratio per sequence counts once for each token."""


def not_reproduced(key: str, s: Settings) -> Iterator[str]:
    if s.differs(key):
        yield (
            f"{s.where(key)} is {shown_text(plain(s[key]))}, which trl-ext does not reproduce: {NOT_REPRODUCED[key]}. Remove "
            "the setting."
        )


for _key in NOT_REPRODUCED:
    problem(_key)(partial(not_reproduced, _key))


@problem("loss_type")
def unknown_loss_type(s: Settings) -> Iterator[str]:
    if s["loss_type"] not in LOSS_TYPES and s.method.name == "grpo":
        yield f"{s.where('loss_type')} is {shown_text(plain(s['loss_type']))}: choose one of {', '.join(LOSS_TYPES)}."


@problem("importance_sampling_level", "use_bias_correction_kl", "kl_estimator", "kl_placement", "beta", "kl_coef")
def corrected_per_sequence(s: Settings) -> Iterator[str]:
    """TRL then multiplies the KL of every token by the ratio of the sequence, and says itself that it is not unbiased."""
    coefficient = s["beta"] if s["kl_coef"] is None else s["kl_coef"]
    chosen = s["kl_estimator"] is None and s["use_bias_correction_kl"]
    if s["importance_sampling_level"] == "sequence" and chosen and coefficient and s["kl_placement"] == "loss":
        yield (
            f"{s.where('use_bias_correction_kl')} is true and {s.where('importance_sampling_level')} is sequence. TRL then multiplies "
            "the KL of each token by the ratio of its whole completion, which gives the gradient of no KL and is not reproduced. "
            "Set `use_bias_correction_kl: false` for k3 as it is, or choose a `kl_estimator`; `k3+` has the gradient of k2."
        )


@problem("multi_objective_aggregation", "advantage", "missing_eos_penalty", "reward_clip_range")
def normalised_one_by_one(s: Settings) -> Iterator[str]:
    if s["multi_objective_aggregation"] != "normalize_then_sum":
        return
    if s["advantage"] != "grpo":
        yield (
            f"{s.where('multi_objective_aggregation')} is normalize_then_sum, which belongs to the advantage grpo, and "
            f"{s.where('advantage')} is {s['advantage']}. Remove one of them."
        )
    for key in ("missing_eos_penalty", "reward_clip_range"):
        if s[key]:
            yield (
                f"{s.where(key)} changes the sum of all rewards, and `multi_objective_aggregation: normalize_then_sum` compares no such "
                "sum. Remove one of them."
            )


@note("multi_objective_aggregation", "scale_rewards")
def scaled_in_any_case(s: Settings) -> Iterator[str]:
    if s["multi_objective_aggregation"] == "normalize_then_sum" and s["scale_rewards"] not in ("group", "batch", True):
        yield (
            f"{s.where('scale_rewards')} has no effect with `multi_objective_aggregation: normalize_then_sum`: each reward is divided "
            "by its deviation in the group, and their sum by its deviation in the rollout."
        )


@note("loss_type", "scale_rewards", "loss_aggregation")
def half_of_dr_grpo(s: Settings) -> Iterator[str]:
    if s["loss_type"] == "dr_grpo" and s["scale_rewards"] in ("group", True):
        yield (
            f"{s.where('loss_type')} dr_grpo divides the loss by a constant, as in TRL. Its paper (arXiv:2503.20783) also does not "
            "divide rewards by their deviation: set `scale_rewards: none` for that."
        )


@note("loss_type", "gradient_accumulation_steps", "steps_per_generation", "generation_batch_size")
def bnpo(s: Settings) -> Iterator[str]:
    accumulated = s["gradient_accumulation_steps"]
    if s["loss_type"] == "bnpo" and (accumulated != 1 or s["steps_per_generation"] not in (None, 1)):
        yield (
            f"{s.where('loss_type')} bnpo divides by the tokens of the rollout, as dapo does. TRL divides by those of each "
            "micro-batch, and the loss then depends on how a step is cut."
        )


@note("loss_type", "policy_objective", "epsilon", "epsilon_high")
def cap_of_cispo(s: Settings) -> Iterator[str]:
    if "cispo" in (s["loss_type"], s["policy_objective"]) and s["epsilon_high"] is None:
        yield (
            f"{s.where('loss_type')} cispo caps the ratio π/π_old at `epsilon_high`. It is not set, so as in TRL the cap is "
            f"`epsilon`, {s['epsilon']:g}, and every token counts {s['epsilon']:g} at most. Its paper caps at 1 or more: set "
            "`epsilon_high: 5.0` (arXiv:2510.13786)."
        )


@note("loss_type", "policy_objective", "epsilon", "epsilon_high", "delta")
def without_clipping(s: Settings) -> Iterator[str]:
    objective = s["policy_objective"] or LOSS_TYPES.get(s["loss_type"], ("", ""))[0]
    unread = {
        "sapo": ("epsilon", "epsilon_high", "delta"),
        "vespo": ("epsilon", "epsilon_high", "delta"),
        "cispo": ("delta",),
    }
    for key in unread.get(objective, ()):
        if s.differs(key):
            yield f"{s.where(key)} has no effect: the surrogate {objective} does not clip by it."


@note("loss_type", "importance_sampling_level", "policy_objective", "loss_aggregation")
def level(s: Settings) -> Iterator[str]:
    given, loss = s["importance_sampling_level"], s["loss_type"]
    if loss == "luspo" and given != "sequence":
        yield (
            f"{s.where('loss_type')} luspo is meant for ratios of whole completions (arXiv:2602.05261): set "
            "`importance_sampling_level: sequence`."
        )
    elif given == "sequence" and loss in SUMMED_OVER_TOKENS and s["loss_aggregation"] != "sequence":
        yield (
            f"{s.where('importance_sampling_level')} is sequence, and `loss_type: {loss}` counts the ratio of a completion once for "
            "each of its tokens. For GSPO (arXiv:2507.18071) set `loss_type: grpo`."
        )
    elif loss == "vespo" and given != "token":
        yield (
            f"{s.where('importance_sampling_level')} has no effect with `loss_type: vespo`, which weighs whole completions in its "
            "own way."
        )
