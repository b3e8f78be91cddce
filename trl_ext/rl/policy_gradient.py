"""Settle the settings of a policy gradient whose defaults depend on the advantage, without importing torch."""

from collections.abc import Callable
from typing import Any

from trl_ext.rl import advantages, grpo_losses

GROUP = 8
"""Completions per prompt of an advantage that compares them, unless they are set (TRL's default for GRPO)."""

AGGREGATIONS = {
    "token": "mean over the tokens of a rollout",
    "sequence": "mean over the tokens of each completion, then over completions",
    "constant": "sum over the tokens of each completion divided by `max_completion_length`, mean over completions",
    "sum": "sum over the tokens of each completion, mean over completions",
}
LEVELS = {
    "token": "of each token",
    "sequence": "of each completion, exp of its mean log-ratio",
    "sequence_sum": "of each completion, exp of its summed log-ratio",
}
"""The choices, and what each means."""
SCALES = ("group", "batch", "none")
LEVEL = "importance_sampling_level"
OBJECTIVES = {
    "clipped": ("epsilon", "epsilon_high", "delta", LEVEL),
    "cispo": ("epsilon_high", LEVEL),
    "sapo": (LEVEL,),
    "vespo": (),
}
"""The settings that each surrogate shares with others."""
OF_ONE_OBJECTIVE = {
    "sapo": ("sapo_temperature_pos", "sapo_temperature_neg"),
    "vespo": ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
}
"""The settings that one surrogate alone reads; its name, and that of the parameter."""


def settled(value: Callable[[str], Any]) -> dict[str, Any]:
    """The settings that depend on the advantage: the value of each, or its default where it is `None`.

    Args:
        value: Reads a setting, of a recipe or of a configuration. The advantage must exist.
    """
    value = grpo_losses.translated(value)
    info = advantages.describe(value("advantage"))
    defaults = {
        "num_generations": generations(info),
        "loss_aggregation": info.aggregation,
        "importance_sampling_level": info.level if LEVEL in OBJECTIVES[value("policy_objective")] else None,
        "scale_rewards": info.hyperparameters.get("scale_rewards"),
        "normalize_advantages": info.needs_critic and value("kl_placement") == "reward",
    }
    return {name: default if value(name) is None else value(name) for name, default in defaults.items()}


def hyperparameters(value: Callable[[str], Any]) -> dict[str, Any]:
    """The hyperparameters of the advantage. A setting that is `None` has the advantage's own default."""
    value = grpo_losses.translated(value)
    info = advantages.describe(value("advantage"))
    return {name: default if value(name) is None else value(name) for name, default in info.hyperparameters.items()}


def generations(info: Any) -> int:
    """The default number of completions per prompt of an advantage, by its declaration."""
    return GROUP if info.needs_groups else 1
