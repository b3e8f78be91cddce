"""The reward functions that score sampled completions: those the user names, or those of the embedded data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trl_ext.build import rewards
from trl_ext.checks import reward_names
from trl_ext.demo import EMBEDDED
from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError

RewardFunctions = Mapping[str, Callable[..., list[float]]]
"""By name. Called as TRL calls them: `function(prompts=…, completions=…)` returns a number for each completion."""


def known_rewards(dataset: str | None) -> RewardFunctions:
    """Reward functions that come with a dataset: for the embedded one its true reward and its grammar, else none."""
    if dataset != EMBEDDED:
        return {}
    from trl_ext.demo.rewards import NAMES

    return {name: function for function, name in NAMES.items()}


def reward_functions(names: Any, recipe: Recipe, dataset: str | None = None) -> RewardFunctions:
    """Reward functions by name.

    Args:
        names: What the user gave for `--reward_funcs`: a name, several, or `None` for those of the data.
        recipe: The run's recipe.
        dataset: The data completions are sampled for, if it is not the run's own.

    Raises:
        UserError: A name does not refer to a function.
    """
    if names is None:
        return known_rewards(dataset or recipe.get("dataset_name"))
    found = {}
    for name in names if isinstance(names, list) else [names]:
        if (problem := reward_names.problem(str(name))) is not None:
            raise UserError(f"`--reward_funcs` is {name!r}, {problem}")
        function = rewards.load(str(name))
        if isinstance(function, str):
            raise UserError(
                f"`--reward_funcs` is {name!r}, a model. Sampled completions are scored with functions only."
            )
        found[_name(function)] = function
    return found


def _name(function: Callable) -> str:
    from trl_ext.demo.rewards import NAMES

    return NAMES.get(function, function.__name__)
