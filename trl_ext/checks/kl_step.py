"""Notes on an optimizer step that does not lead to the optimum of the reward minus the KL."""

from collections.abc import Callable, Iterator
from typing import Any

from trl_ext.checks import kl
from trl_ext.checks.rule import note
from trl_ext.checks.settings import Settings
from trl_ext.rl import advantages, policy_gradient, step_table, truth_table
from trl_ext.rl.step_table import Step


def step_of(value: Callable[[str], Any]) -> Step | None:
    """The settings that decide what a step estimates; `None` if one of their names is unknown.

    Args:
        value: Gives a setting by its name.
    """
    cell = kl.cell(value)
    try:
        truth_table.check(*cell)
        settled = policy_gradient.settled(value)
        hyperparameters = policy_gradient.hyperparameters(value)
    except (ValueError, KeyError):
        return None  # reported as problems
    return Step(
        *cell,
        advantage=value("advantage"),
        aggregation=settled["loss_aggregation"],
        is_whitened=bool(settled["normalize_advantages"]),
        scale_rewards=settled["scale_rewards"] or "group",
        ratio_level=settled["importance_sampling_level"] or "token",
        gamma=hyperparameters.get("gamma", 1.0),
        lam=hyperparameters.get("lam", 1.0),
    )


@note(*kl.CELL, "advantage", "gamma", "kl_coef")
def gradient(s: Settings) -> Iterator[str]:
    step = step_of(s.__getitem__) if kl.coefficient(s.__getitem__) else None
    warning = step_table.warning(step) if step is not None else None
    if warning is not None:
        yield warning
